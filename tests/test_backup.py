"""`flask db-backup` and `flask db-restore`."""

import itertools
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy as sa

from app import db
from sqlite_driver import CHECK_SECONDS
from tests.conftest import CHEAP, TEST_DATABASE_URL
from tests.helpers import ROOT, Server, basic, json_of, register_user, usernames


@pytest.fixture
def flask(file_app):
    """Return a function that runs a command and returns its output."""

    def flask(*args, typed=None, fails=False):
        result = file_app.test_cli_runner().invoke(args=[str(arg) for arg in args], input=typed)
        assert (result.exit_code != 0) == fails, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.output

    return flask


@pytest.fixture
def backup(tmp_path):
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder / "backup.db"


def fill(path, mebibytes):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE filler (data)")
        rows = [(os.urandom(2**20),) for _ in range(mebibytes)]
        connection.executemany("INSERT INTO filler VALUES (?)", rows)


def execute(path, statement):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_a_backup_is_one_complete_file_for_its_owner_alone(flask, database, backup):
    assert flask("db-backup", backup) == f"{backup} is a backup of {database}\n"
    assert list(backup.parent.iterdir()) == [backup]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert usernames(backup) == {"susan"}


def test_a_copy_of_the_file_alone_misses_what_is_in_the_wal(flask, file_app, database, backup):
    register_user(file_app.test_client(), "bob")
    shutil.copy(database, backup)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        usernames(backup)
    backup.unlink()
    flask("db-backup", backup)
    assert usernames(backup) == {"susan", "bob"}


def test_a_backup_has_everything_that_was_acknowledged_before(flask, file_app, backup):
    acknowledged, is_over = set(), threading.Event()

    def write(number):
        for count in itertools.count():
            if is_over.is_set():
                return
            name = f"user{number}-{count}"
            assert register_user(file_app.test_client(), name).status_code == 201
            acknowledged.add(name)

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, number) for number in range(3)]
        try:
            for _ in range(5):
                time.sleep(0.1)
                before = set(acknowledged)
                flask("db-backup", backup, "--force")
                assert usernames(backup) >= before
        finally:
            is_over.set()
    assert [writer.result() for writer in writers] == [None] * 3
    assert usernames(backup) < acknowledged | {"susan"}


def test_an_existing_file_is_replaced_only_with_force(flask, file_app, backup):
    backup.write_text("something else")
    assert flask("db-backup", backup, fails=True) == (
        f"Error: {backup} exists; repeat with --force to replace it\n"
    )
    assert backup.read_text() == "something else"
    flask("db-backup", backup, "--force")
    assert usernames(backup) == {"susan"}


@pytest.mark.parametrize("command", ["db-backup", "db-restore"])
def test_the_database_is_no_backup_of_itself(flask, database, tmp_path, command):
    (tmp_path / "link.db").symlink_to(database)
    option = "--force" if command == "db-backup" else "--yes"
    for file in (database, tmp_path / "link.db"):
        output = flask(command, file, option, fails=True)
        assert output == f"Error: {file} is the database itself\n"


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
def test_a_part_of_the_database_is_not_replaced_by_a_backup(flask, database, end):
    part = database.with_name(database.name + end)
    before = part.read_bytes() if part.exists() else None
    assert flask("db-backup", part, "--force", fails=True) == (
        f"Error: {part} is a part of the database\n"
    )
    assert before == (part.read_bytes() if part.exists() else None)
    assert usernames(database) == {"susan"}


def test_a_database_without_tables_replaces_no_backup(flask, file_app, database, backup):
    flask("db-backup", backup)
    with file_app.app_context():
        db.drop_all()
    execute(database, "DROP TABLE alembic_version")
    output = flask("db-backup", backup, "--force", fails=True)
    assert output == f"Error: {database} is no database of this application\n"
    assert usernames(backup) == {"susan"}


def test_a_backup_replaces_what_a_link_leads_to_and_only_a_regular_file(flask, tmp_path):
    target, link, pipe = (tmp_path / name for name in ("target.db", "link.db", "pipe"))
    link.symlink_to(target)
    flask("db-backup", link)  # the target is new
    target.write_text("old")
    flask("db-backup", "--force", link)
    assert link.is_symlink()
    assert target.read_bytes().startswith(b"SQLite format 3")
    os.mkfifo(pipe)
    for options in ([], ["--force"]):
        output = flask("db-backup", *options, pipe, fails=True)
        assert output == f"Error: {pipe} is no regular file\n"
    assert pipe.is_fifo()


def test_a_backup_into_no_folder_is_one_line(flask, tmp_path):
    output = flask("db-backup", tmp_path / "nowhere" / "backup.db", fails=True)
    assert output.startswith(f"Error: {tmp_path}/nowhere/")
    assert output.endswith(": No such file or directory\n")


def test_a_backup_without_a_database_is_one_line_and_creates_nothing(flask, database, tmp_path):
    for end in ("", "-wal", "-shm"):
        database.with_name(database.name + end).unlink(missing_ok=True)
    time.sleep(2 * CHECK_SECONDS)
    output = flask("db-backup", tmp_path / "backup.db", fails=True)
    assert output.startswith("Error: cannot use the database: there is no file ")
    assert not list(tmp_path.iterdir())


def test_data_with_errors_are_not_backed_up(flask, database, backup):
    execute(database, 'CREATE TABLE orphan (user_id REFERENCES "user" (id))')
    execute(database, "INSERT INTO orphan VALUES (99)")
    output = flask("db-backup", backup, fails=True)
    assert output.startswith("Error: the data have errors: foreign_key_check: ('orphan', 1,")
    assert not list(backup.parent.iterdir())


def run_flask(database, *arguments, limit_kib=None):
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{database}"}
    command = [sys.executable, "-m", "flask", "--app", "microblog_api", *map(str, arguments)]
    if limit_kib:
        command = ["bash", "-c", f'ulimit -f {limit_kib}; exec "$@"', "bash", *command]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_backup_that_is_killed_leaves_no_file(file_app, database, backup):
    fill(database, 100)
    with run_flask(database, "db-backup", backup) as process:
        while not list(backup.parent.iterdir()):
            assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (left,) = list(backup.parent.iterdir())
    assert left.suffix == ".part"


@pytest.mark.slow
def test_a_backup_that_cannot_be_written_is_one_line_and_leaves_nothing(database, file_app, backup):
    fill(database, 2)
    with run_flask(database, "db-backup", backup, limit_kib=1024) as process:
        assert process.stderr.read() == (
            f"Error: cannot copy {database} to {backup}: disk I/O error\n"
        )
    assert process.returncode == 1
    assert not list(backup.parent.iterdir())


def test_a_restore_brings_back_the_data_of_the_backup(flask, file_app, database, backup):
    client = file_app.test_client()
    flask("db-backup", backup)
    register_user(client, "bob")
    question = f"Replace all data in {database}? [y/N]: "
    assert flask("db-restore", backup, typed="n\n", fails=True) == f"{question}n\nAborted!\n"
    assert usernames(database) == {"susan", "bob"}
    output = flask("db-restore", backup, typed="y\n")
    assert output == f"{question}y\n{database} has the data of {backup}\n"
    assert client.get("/api/users/me", headers=basic("bob")).status_code == 401
    assert client.get("/api/users/me", headers=basic("susan")).status_code == 200
    assert register_user(client, "carol").status_code == 201
    assert usernames(database) == {"susan", "carol"}
    names = {path.name for path in database.parent.iterdir()}
    assert names == {"backups", *(database.name + end for end in ("", "-wal", "-shm"))}


def damage(path):
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"damaged" * 2000)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage, ""),
        (truncate, ""),
        (lambda path: path.write_bytes(b"no database" * 1000), "file is not a database"),
        (lambda path: path.write_bytes(b""), "backup.db is no database of this application"),
        (lambda path: execute(path, 'DROP TABLE "user"'), "backup.db is no database of this app"),
        (
            lambda path: execute(path, "DELETE FROM alembic_version"),
            "of an unknown revision (none)",
        ),
        (
            lambda path: execute(path, "UPDATE alembic_version SET version_num = '9999'"),
            "its schema is of an unknown revision (9999); update the code",
        ),
    ],
)
def test_a_file_that_cannot_be_restored_changes_nothing(
    flask, file_app, database, backup, spoil, message
):
    flask("db-backup", backup)
    spoil(backup)
    register_user(file_app.test_client(), "bob")
    output = flask("db-restore", backup, "--yes", fails=True)
    assert output.startswith("Error: ")
    assert message in output
    assert output.count("\n") == 1
    assert usernames(database) == {"susan", "bob"}
    assert not list(database.parent.glob(".*.part"))


def test_a_restore_for_which_there_is_no_space_changes_nothing(flask, file_app, database, backup):
    flask("db-backup", backup)
    fill(backup, 2)
    register_user(file_app.test_client(), "bob")

    def limit(connection, _):  # as if the disk were full; a page has 4 KiB
        connection.execute("PRAGMA max_page_count = 100")

    with file_app.app_context():
        db.engine.dispose()
        sa.event.listen(db.engine, "connect", limit)
    output = flask("db-restore", backup, "--yes", fails=True)
    assert output == (
        f"Error: cannot write {database}: database or disk is full; nothing is changed\n"
    )
    assert usernames(database) == {"susan", "bob"}


def test_a_backup_of_an_older_schema_is_restored_with_a_hint(flask, file_app, database, backup):
    flask("db-backup", backup)
    execute(backup, "UPDATE alembic_version SET version_num = '0003'")
    lines = flask("db-restore", backup, "--yes").splitlines()
    assert lines[1:] == ["their schema is of an older version; run `flask db upgrade`"]


@pytest.mark.parametrize("lost", [("",), ("", "-wal", "-shm")])
def test_a_restore_puts_a_deleted_database_back(flask, file_app, database, backup, lost):
    client = file_app.test_client()
    flask("db-backup", backup)
    register_user(client, "bob")
    for end in lost:
        database.with_name(database.name + end).unlink()
    time.sleep(2 * CHECK_SECONDS)
    assert client.get("/api/users/me", headers=basic("susan")).status_code == 503
    flask("db-restore", backup, "--yes")
    assert client.get("/api/users/me", headers=basic("bob")).status_code == 401
    assert client.get("/api/users/me", headers=basic("susan")).status_code == 200
    assert register_user(client, "carol").status_code == 201
    assert usernames(database) == {"susan", "carol"}
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_deleted_database_that_root_restores_belongs_to_the_owner_of_its_folder(
    flask, database, backup
):
    flask("db-backup", backup)
    database.unlink()
    os.chown(database.parent, 10001, 10002)
    flask("db-restore", backup, "--yes")
    assert (database.stat().st_uid, database.stat().st_gid) == (10001, 10002)
    os.chown(database, 10003, 10004)
    flask("db-restore", backup, "--yes")
    assert (database.stat().st_uid, database.stat().st_gid) == (10003, 10004)


def test_a_restore_replaces_a_damaged_database(flask, file_app, database, backup):
    flask("db-backup", backup)
    with file_app.app_context():
        db.engine.dispose()
    damage(database)
    flask("db-restore", backup, "--yes")
    assert usernames(database) == {"susan"}
    with file_app.app_context():
        db.engine.dispose()
    database.write_bytes(b"no database" * 1000)
    output = flask("db-restore", backup, "--yes", fails=True)
    assert output == (
        f"Error: cannot replace {database}: file is not a database; stop the server, "
        "move the file away, and repeat this\n"
    )


def test_a_restore_that_waits_too_long_for_a_lock_changes_nothing(
    flask, file_app, database, backup, monkeypatch
):
    monkeypatch.setattr("app.extensions.SQLITE_WAIT_SECONDS", 0.1)
    flask("db-backup", backup)
    register_user(file_app.test_client(), "bob")
    with file_app.app_context():
        db.engine.dispose()
        sa.event.listen(db.engine, "connect", lambda d, _: d.execute("PRAGMA busy_timeout = 100"))
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        output = flask("db-restore", backup, "--yes", fails=True)
    assert output == "Error: another transaction locks the database; nothing is changed\n"
    assert usernames(database) == {"susan", "bob"}


@pytest.mark.slow
def test_a_restore_that_is_killed_changes_nothing(flask, file_app, database, backup):
    flask("db-backup", backup)
    fill(backup, 100)
    assert register_user(file_app.test_client(), "bob").status_code == 201
    wal = database.with_name(f"{database.name}-wal")
    with run_flask(database, "db-restore", backup, "--yes") as process:
        while wal.stat().st_size < 10 * 2**20:  # it has begun to write
            assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert usernames(database) == {"susan", "bob"}
    assert register_user(file_app.test_client(), "carol").status_code == 201
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_a_restore_under_load_shows_old_data_or_new_and_no_error(tmp_path):
    database, backup = tmp_path / "app.db", tmp_path / "backup.db"
    settings = {
        "DATABASE_URL": f"sqlite:///{database}",
        "WEB_CONCURRENCY": "2",
        "REGISTRATION_LIMIT_PER_SOURCE": "1000000 per hour",
        **CHEAP,
    }
    statuses, is_over = set(), threading.Event()

    def send(number):
        for count in itertools.count():
            body = json_of(f"user{number}-{count}")
            statuses.add(server.request("POST", "/api/users", json_body=body).status)
            read = server.request("GET", "/api/users/me", headers=basic("susan"))
            statuses.add(read.status)
            if is_over.is_set():
                return

    with Server(**settings) as server:
        server.request("POST", "/api/users", json_body=json_of("susan"))
        fill(database, 20)
        with run_flask(database, "db-backup", backup) as process:
            assert process.wait() == 0
        with ThreadPoolExecutor() as pool:
            for number in range(4):
                pool.submit(send, number)
            try:
                for _ in range(2):
                    with run_flask(database, "db-restore", backup, "--yes") as process:
                        assert process.wait() == 0
            finally:
                is_over.set()
        assert statuses <= {200, 201, 409}
        with run_flask(database, "db-restore", backup, "--yes") as process:
            assert process.wait() == 0
        assert usernames(database) == {"susan"}
    with Server(**settings) as server:
        assert server.request("GET", "/api/users/me", headers=basic("susan")).status == 200


@pytest.mark.skipif(not TEST_DATABASE_URL, reason="needs PostgreSQL")
@pytest.mark.parametrize("command", ["db-backup", "db-restore"])
def test_on_postgresql_both_name_the_tools_of_postgresql(migrated_app, tmp_path, command):
    if migrated_app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"):
        pytest.skip("is SQLite")
    file = tmp_path / "file"
    if command == "db-restore":
        file.touch()
    result = migrated_app.test_cli_runner().invoke(args=[command, str(file)])
    assert result.exit_code == 1
    assert "pg_dump" in result.output
