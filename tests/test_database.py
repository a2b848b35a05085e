"""The schema, and a database that does not answer."""

import os
import subprocess
import sys

import flask_migrate
import pytest
import sqlalchemy as sa

from app import create_app, db
from app.models import User
from tests.conftest import postgresql_schema
from tests.helpers import ROOT


@pytest.fixture
def fresh_app(request, config_class, migrated_app, tmp_path):
    """An application on a database of its own, without tables."""

    def make(uri):
        return create_app(type("FreshConfig", (config_class,), {"SQLALCHEMY_DATABASE_URI": uri}))

    if config_class.SQLALCHEMY_DATABASE_URI.startswith("sqlite"):
        app = make(f"sqlite:///{tmp_path}/fresh.db")
        yield app
        with app.app_context():
            db.engine.dispose()
        return
    with postgresql_schema() as uri:
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
        assert [(u.post_count, u.follower_count, u.following_count) for u in page.items] == [
            (0, 0, 0)
        ] * 2
        db.session.rollback()
        flask_migrate.downgrade(revision="0001")
        rows = db.session.execute(sa.text(f'SELECT {columns} FROM "user" ORDER BY id')).all()
        assert tuple(rows[0]) == row


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


def test_a_migration_that_fails_leaves_nothing_behind(fresh_app, monkeypatch):
    monkeypatch.setattr("alembic.op.create_index", lambda *_, **__: 1 / 0)
    with fresh_app.app_context():
        with pytest.raises(ZeroDivisionError):
            flask_migrate.upgrade()
        assert columns(db.engine) == set()


def test_sqlite_is_opened_to_lose_nothing(app):
    with app.app_context():
        if db.engine.dialect.name != "sqlite":
            pytest.skip("is no SQLite")
        pragmas = {
            name: db.session.execute(sa.text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
        assert pragmas == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 10_000,
        }
        connection = db.session.connection().connection.dbapi_connection
        assert connection.isolation_level == "IMMEDIATE"
