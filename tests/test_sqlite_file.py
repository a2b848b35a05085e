"""What happens if the file of a SQLite database is deleted, replaced or put back."""

import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy as sa

from app import db
from app.extensions import SQLITE_WAL_BYTES
from sqlite_driver import CHECK_SECONDS
from tests.conftest import CHEAP
from tests.helpers import ROOT, Server, basic, bearer, json_of, register_user, usernames

ENDS = ("", "-wal", "-shm")
UNAVAILABLE = {
    "error": "Service Unavailable",
    "message": "the database does not answer; try again shortly",
}


def with_end(path, end):
    return path.with_name(path.name + end)


def move(source, target, ends=ENDS):
    for end in ends:
        with_end(source, end).rename(with_end(target, end))


@pytest.mark.parametrize("ends", [("",), ENDS])
def test_without_its_file_every_request_is_503_until_it_is_put_back(
    file_app, database, tmp_path, ends
):
    client = file_app.test_client()
    headers = bearer(client.post("/api/tokens", headers=basic("susan")).json["token"])
    elsewhere = tmp_path / "elsewhere.db"
    for _ in range(2):
        move(database, elsewhere, ends)
        time.sleep(2 * CHECK_SECONDS)
        for _ in range(3):
            answers = [
                client.get("/api/users/me", headers=headers),
                client.get("/api/users/me", headers=basic("susan")),
                register_user(client, "bob"),
            ]
            assert [answer.status_code for answer in answers] == [503, 503, 503]
            assert all(answer.json == UNAVAILABLE for answer in answers)
            assert not database.exists()
        move(elsewhere, database, ends)
        answer = client.get("/api/users/me", headers=headers)
        assert (answer.status_code, answer.json["username"]) == (200, "susan")
    assert register_user(client, "bob").status_code == 201
    assert usernames(database) == {"susan", "bob"}


def test_a_database_that_replaces_another_is_used_without_a_restart(file_app, database, tmp_path):
    client = file_app.test_client()
    with file_app.app_context():
        db.engine.dispose()  # the last connection empties the WAL, and deletes it
    shutil.copy(database, tmp_path / "copy.db")
    assert register_user(client, "bob").status_code == 201
    for end in ENDS:
        with_end(database, end).unlink(missing_ok=True)
    (tmp_path / "copy.db").rename(database)
    time.sleep(2 * CHECK_SECONDS)
    assert client.get("/api/users/me", headers=basic("bob")).status_code == 401
    assert client.get("/api/users/me", headers=basic("susan")).status_code == 200
    assert register_user(client, "carol").status_code == 201
    assert usernames(database) == {"susan", "carol"}


def test_a_file_that_is_replaced_while_it_is_opened_is_no_error(file_app, database, tmp_path):
    client = file_app.test_client()
    copy = tmp_path / "copy.db"

    def replace(*_):
        shutil.copy(database, copy)
        copy.replace(database)

    with file_app.app_context():
        db.engine.dispose()
        sa.event.listen(db.engine, "connect", replace, insert=True)
        assert client.get("/api/users/me", headers=basic("susan")).status_code == 503
        sa.event.remove(db.engine, "connect", replace)
    assert client.get("/api/users/me", headers=basic("susan")).status_code == 200


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_committed_after_a_file_was_deleted(file_app, database, tmp_path, end):
    client = file_app.test_client()
    lost = tmp_path / "lost"

    def delete(*_):
        with_end(database, end).rename(lost)

    with file_app.app_context():
        session = db.session
    sa.event.listen(session, "after_flush", delete, once=True)
    answer = register_user(client, "bob")
    assert (answer.status_code, answer.json) == (503, UNAVAILABLE)
    lost.rename(with_end(database, end))
    assert client.get("/api/users/me", headers=basic("bob")).status_code == 401
    assert register_user(client, "carol").status_code == 201
    assert usernames(database) == {"susan", "carol"}


@pytest.mark.parametrize("end", ENDS)
def test_a_commit_into_a_file_that_is_deleted_meanwhile_is_503(file_app, database, tmp_path, end):
    client = file_app.test_client()
    deleted = []

    def delete(statement):
        if statement == "COMMIT" and not deleted:
            deleted.append(with_end(database, end))
            deleted[0].unlink()

    def watch(driver, *_):
        driver.set_trace_callback(delete)

    with file_app.app_context():
        sa.event.listen(db.engine, "checkout", watch)
    assert register_user(client, "bob").status_code == 503
    assert deleted
    assert not database.exists() or end
    assert register_user(client, "carol").status_code == 503


def test_the_wal_that_a_long_reader_has_let_grow_is_cut_after_it_has_ended(file_app, database):
    client = file_app.test_client()
    wal = with_end(database, "-wal")
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute('SELECT id FROM "user"').fetchall()
        with file_app.app_context(), db.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE filler (data)"))
            fill = sa.text("INSERT INTO filler VALUES (zeroblob(:size))")
            connection.execute(fill, {"size": SQLITE_WAL_BYTES})
        for name in ("bob", "carol", "dave"):
            assert register_user(client, name).status_code == 201
        assert wal.stat().st_size > SQLITE_WAL_BYTES
    assert register_user(client, "erin").status_code == 201  # empties the WAL
    assert register_user(client, "frank").status_code == 201  # begins it anew
    assert wal.stat().st_size <= SQLITE_WAL_BYTES


def run_flask(database, *arguments):
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{database}"}
    command = [sys.executable, "-m", "flask", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_flask_db_upgrade_creates_the_file_and_no_other_command_does(tmp_path):
    database = tmp_path / "app.db"
    process = run_flask(database, "users", "list")
    assert process.returncode == 1
    assert process.stderr == (
        f"Error: cannot use the database: there is no file {database}; "
        "put it back, or create it with `flask db upgrade`\n"
    )
    assert not database.exists()
    assert run_flask(database, "db", "upgrade").returncode == 0
    assert run_flask(database, "users", "list").returncode == 0


@pytest.mark.slow
def test_a_server_under_load_survives_the_deletion_of_its_file(tmp_path):
    database, elsewhere = tmp_path / "app.db", tmp_path / "elsewhere.db"
    settings = {
        "DATABASE_URL": f"sqlite:///{database}",
        "WEB_CONCURRENCY": "2",
        "REGISTRATION_LIMIT_PER_SOURCE": "1000000 per hour",
        **CHEAP,
    }
    is_gone, is_over = threading.Event(), threading.Event()
    acknowledged, while_gone, otherwise = {"susan"}, set(), set()

    def read(_number):
        return server.request("GET", "/api/users/me", headers=basic("susan")).status

    def write(number):
        name = f"user{number}"
        status = server.request("POST", "/api/users", json_body=json_of(name)).status
        if status == 201:
            acknowledged.add(name)
        return status

    def send(request, first_number):
        for number in itertools.count(first_number):
            was_gone = is_gone.is_set()
            status = request(number)
            (while_gone if was_gone and is_gone.is_set() else otherwise).add(status)
            if is_over.is_set():
                return

    def delete_and_restore():
        for _ in range(3):
            time.sleep(0.5)
            move(database, elsewhere)
            time.sleep(2 * CHECK_SECONDS)
            is_gone.set()
            time.sleep(0.5)
            assert not any(with_end(database, end).exists() for end in ENDS)
            is_gone.clear()
            move(elsewhere, database, reversed(ENDS))  # what SQLite opens first comes last
        time.sleep(0.5)

    with Server(**settings) as server:
        assert server.request("POST", "/api/users", json_body=json_of("susan")).status == 201
        with ThreadPoolExecutor() as pool:
            for number in range(2):
                pool.submit(send, read, 0)
                pool.submit(send, write, number * 10**6)
            try:
                delete_and_restore()
            finally:
                is_over.set()
        assert while_gone == {503}
        assert otherwise == {200, 201, 503}
        assert read(0) == 200
        assert usernames(database) >= acknowledged
    with Server(**settings) as server:
        assert read(0) == 200
        assert usernames(database) >= acknowledged
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
