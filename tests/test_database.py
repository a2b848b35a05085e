"""The migrations, and how SQLite is opened."""

import os
import stat
import subprocess
import sys

import flask_migrate
import pytest
import sqlalchemy as sa

from app import create_app, db
from app.models import User
from config import Config
from tests.conftest import postgresql_database
from tests.helpers import PASSWORD, ROOT, at_once, basic


@pytest.fixture
def fresh_app(request, config_class, migrated_app, tmp_path):
    """An application on its own database, without tables."""

    def make(uri):
        return create_app(type("FreshConfig", (config_class,), {"SQLALCHEMY_DATABASE_URI": uri}))

    if config_class.SQLALCHEMY_DATABASE_URI.startswith("sqlite"):
        app = make(f"sqlite:///{tmp_path}/fresh.db")
        yield app
        with app.app_context():
            db.engine.dispose()
        return
    with postgresql_database() as uri:
        app = make(uri)
        yield app
        with app.app_context():
            db.engine.dispose()


def columns(engine):
    inspector = sa.inspect(engine)
    return {
        (table, column["name"])
        for table in inspector.get_table_names()
        for column in inspector.get_columns(table)
    }


def test_the_migrations_go_up_down_and_up_again(fresh_app):
    with fresh_app.app_context():
        flask_migrate.upgrade()
        up = columns(db.engine)
        assert ("user", "token_expiration") in up
        flask_migrate.downgrade(revision="base")
        assert columns(db.engine) == {("alembic_version", "version_num")}
        flask_migrate.upgrade()
        assert columns(db.engine) == up


def test_the_models_and_the_migrations_agree(migrated_app, capsys):
    with migrated_app.app_context():
        flask_migrate.check()


def test_a_database_of_the_first_schema_keeps_its_rows(fresh_app):
    with fresh_app.app_context():
        flask_migrate.upgrade(revision="0001")
        columns = "username, email, password_hash, about_me"
        row = ("alice", "alice@example.com", "a hash", "Hi")
        for name in ("alice", "bob"):
            values = {"u": name, "e": f"{name}@example.com", "p": "a hash", "a": "Hi"}
            statement = f'INSERT INTO "user" ({columns}) VALUES (:u, :e, :p, :a)'
            db.session.execute(sa.text(statement), values)
        db.session.commit()
        flask_migrate.upgrade()
        rows = db.session.execute(sa.text(f'SELECT {columns} FROM "user" ORDER BY id')).all()
        assert (len(rows), tuple(rows[0])) == (2, row)
        page = User.page(1, 10)
        assert page.total == 2
        for user in page.items:  # microblog
            counts = (user.post_count, user.follower_count, user.followed_count)  # microblog
            assert counts == (0, 0, 0)  # microblog
        db.session.rollback()
        flask_migrate.downgrade(revision="0001")
        rows = db.session.execute(sa.text(f'SELECT {columns} FROM "user" ORDER BY id')).all()
        assert tuple(rows[0]) == row


@pytest.mark.slow
def test_two_machines_that_upgrade_at_once_both_succeed(fresh_app):
    environment = {
        **os.environ,
        "DATABASE_URL": fresh_app.config["SQLALCHEMY_DATABASE_URI"],
        "SECRET_KEY": fresh_app.config["SECRET_KEY"],
    }
    command = [sys.executable, "-m", "flask", "db", "upgrade"]
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    with fresh_app.app_context():
        assert ("user", "token") in columns(db.engine)


@pytest.mark.slow
def test_a_sqlite_database_is_for_its_owner_only_and_an_existing_one_keeps_its_mode(tmp_path):
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path}/app.db"}
    command = [sys.executable, "-m", "flask", "db", "upgrade"]
    subprocess.run(command, cwd=ROOT, env=environment, umask=0o022, check=True)
    database = tmp_path / "app.db"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o600}

    app = create_app(
        type("FileConfig", (Config,), {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{database}"})
    )
    with app.app_context():
        for mode in (0o600, 0o640):
            database.chmod(mode)
            db.session.execute(sa.text("UPDATE total SET value = 1"))
            files = [database, *(tmp_path / f"app.db-{end}" for end in ("wal", "shm"))]
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {mode}
            db.session.remove()
            db.engine.dispose()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_sqlite_database_that_root_creates_belongs_to_the_owner_of_its_folder(tmp_path):
    os.chown(tmp_path, 10001, 10002)
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path}/app.db"}
    command = [sys.executable, "-m", "flask", "db", "upgrade"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()}
    assert owners == {(10001, 10002)}


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
@pytest.mark.parametrize("create", [flask_migrate.upgrade, db.create_all])
def test_threads_share_a_database_in_memory(config_class, uri, create, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = create_app(type("MemoryConfig", (config_class,), {"SQLALCHEMY_DATABASE_URI": uri}))
    with app.app_context():
        create(ROOT / "migrations") if create is flask_migrate.upgrade else create()

    def register(number):
        name = f"user{number}"
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        return app.test_client().post("/api/users", json=body).status_code

    def me(number):
        headers = basic(f"user{number}")
        return app.test_client().get("/api/users/me", headers=headers).json["username"]

    # One thread after another: they share one connection, and so its transaction.
    for number in range(3):
        assert at_once(1, lambda _, number=number: register(number)) == [201]
    for number in range(3):
        assert at_once(1, lambda _, number=number: me(number)) == [f"user{number}"]
    assert not list(tmp_path.iterdir())
    with app.app_context():
        db.engine.dispose()


def test_a_migration_that_fails_leaves_nothing_behind(fresh_app, monkeypatch):
    monkeypatch.setattr("alembic.op.create_index", lambda *_, **__: 1 / 0)
    with fresh_app.app_context():
        with pytest.raises(ZeroDivisionError):
            flask_migrate.upgrade()
        assert columns(db.engine) == set()


def test_sqlite_uses_wal_full_sync_foreign_keys_and_immediate_transactions(app):
    with app.app_context():
        if db.engine.dialect.name != "sqlite":
            pytest.skip("is no SQLite")
        pragmas = {
            name: db.session.execute(sa.text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "mmap_size")
        }
        assert pragmas == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 10_000,
            "mmap_size": 2**30,
        }
        connection = db.session.connection().connection.dbapi_connection
        assert connection.isolation_level == "IMMEDIATE"


def test_no_database_and_no_secret_is_copied_into_the_image():
    ignored = set((ROOT / ".dockerignore").read_text().splitlines())
    databases = {f"**/*.db{end}" for end in ("", "-shm", "-wal")}
    assert databases | {".env", ".env.*", "instance"} <= ignored
