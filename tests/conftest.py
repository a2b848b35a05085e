"""The cast and the stage.

Alice and Bob are registered users, Charlie is nobody yet. Every test runs on
SQLite, and also on PostgreSQL when TEST_DATABASE_URL is set; there each run
has a schema of its own, which is dropped at the end.
"""

import os
from pathlib import Path

# Neither a developer's .env nor their environment may change what is tested.
os.environ["PYTHON_DOTENV_DISABLED"] = "1"
for line in (Path(__file__).parent.parent / ".env.example").read_text().splitlines():
    name, equals, _ = line.removeprefix("# ").partition("=")
    if equals and name.isupper():
        os.environ.pop(name, None)
os.environ.pop("FLASK_DEBUG", None)

import json
import secrets
from contextlib import ExitStack, contextmanager

import argon2
import flask_migrate
import pytest
import sqlalchemy as sa
from flask import Flask

from app import create_app, db, throttle
from app.models import Total
from config import Config, database_uri
from tests.contract import ContractClient
from tests.helpers import PASSWORD, Server, assert_no_secret_in, passwords_seen

Flask.test_client_class = ContractClient

TEST_DATABASE_URL = os.environ.get("TEST_DATABASE_URL")
DATABASES = ["sqlite", "postgresql"] if TEST_DATABASE_URL else ["sqlite"]


def pytest_report_header():
    if TEST_DATABASE_URL:
        return "databases: SQLite and PostgreSQL"
    return "databases: SQLite alone; TEST_DATABASE_URL names no PostgreSQL database"


@pytest.fixture(scope="session", params=DATABASES)
def empty_database(request, tmp_path_factory):
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('database')}/app.db"
        return
    with postgresql_schema() as url:
        yield url


@contextmanager
def postgresql_schema():
    schema = f"test_{os.getpid()}_{secrets.token_hex(4)}"
    engine = sa.create_engine(database_uri(TEST_DATABASE_URL), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
        url = engine.url.update_query_dict({"options": f"-csearch_path={schema}"})
        try:
            yield url.render_as_string(hide_password=False)
        finally:
            connection.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture(scope="session")
def config_class(empty_database):
    return type(
        "TestConfig",
        (Config,),
        {
            "TESTING": True,
            "SQLALCHEMY_DATABASE_URI": empty_database,
            "SECRET_KEY": "the key of the tests, of no use anywhere else",
            "SECRET_KEY_FALLBACKS": [],
            "TOKEN_LIFETIME_SECONDS": 3600,
            "PASSWORD_MIN_LENGTH": 8,
            # The cheapest there is: what is tested is that it is called.
            "ARGON2_MEMORY_KIB": 8,
            "ARGON2_TIME_COST": 1,
            "PASSWORD_HASH_CONCURRENCY": 2,  # on every machine
        },
    )


@pytest.fixture(scope="session")
def migrated_app(config_class):
    app = create_app(config_class)
    with app.app_context():
        flask_migrate.upgrade()
    yield app
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def app(migrated_app):
    """The application on an empty, migrated database."""
    config = dict(migrated_app.config)
    throttle.init_app(migrated_app)
    yield migrated_app
    migrated_app.config.clear()
    migrated_app.config.update(config)
    with migrated_app.app_context():
        for table in reversed(db.metadata.sorted_tables):
            if table is not Total.__table__:
                db.session.execute(sa.delete(table))
        db.session.execute(sa.update(Total).values(value=0))
        db.session.commit()


@pytest.fixture(scope="session", autouse=True)
def noted_passwords():
    """Notes what is hashed or checked, for `nothing_secret_is_logged`."""

    def noting(method):
        def note(hasher, *args):
            # Of several words: one alone may stand in a line of code that is logged.
            passwords_seen.update(text for text in args[-1:] if " " in text.strip())
            return method(hasher, *args)

        return note

    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("hash", "verify"):
            method = getattr(argon2.PasswordHasher, name)
            monkeypatch.setattr(argon2.PasswordHasher, name, noting(method))
        yield


@pytest.fixture(autouse=True)
def nothing_secret_is_logged(caplog):
    """Whatever a test does, no log has a token or a password afterwards."""
    yield
    for phase in ("setup", "call"):
        for record in caplog.get_records(phase):
            assert_no_secret_in(caplog.handler.format(record))


@pytest.fixture
def events(caplog):
    """Gives the audit log of this test so far."""
    return lambda: [
        json.loads(record.message)
        for phase in ("setup", "call")
        for record in caplog.get_records(phase)
        if record.name == "microblog_api.audit"
    ]


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def register(client):
    def register(username, **fields):
        body = {"username": username, "email": f"{username}@example.com", "password": PASSWORD}
        response = client.post("/api/users", json=body | fields)
        assert response.status_code == 201, response.text
        return response.json["id"]

    return register


@pytest.fixture
def alice(register):
    """Alice's id."""
    return register("alice")


@pytest.fixture
def bob(register):
    """Bob's id."""
    return register("bob")


@pytest.fixture
def log_in(client):
    def log_in(login, password=PASSWORD):
        response = client.post("/api/tokens", auth=(login, password))
        assert response.status_code == 200, response.text
        return response.json["token"]

    return log_in


@pytest.fixture
def token(alice, log_in):
    """Alice's token."""
    return log_in("alice")


@pytest.fixture
def statements(app):
    """The statements that reach the database, as they do."""
    seen = []

    def record(_connection, _cursor, statement, *_):
        seen.append(statement)

    with app.app_context():
        engine = db.engine
    sa.event.listen(engine, "before_cursor_execute", record)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", record)


@pytest.fixture
def client_of(app, config_class):
    """A client of an application on the same database, with other settings."""
    apps = []

    def client_of(**settings):
        apps.append(create_app(type("OtherConfig", (config_class,), settings)))
        return apps[-1].test_client()

    yield client_of
    for other in apps:
        with other.app_context():
            db.engine.dispose()


CHEAP = {"ARGON2_MEMORY_KIB": "8", "ARGON2_TIME_COST": "1"}


@pytest.fixture
def server_with(app, config_class):
    """Puts the same database behind `boot.sh`, on a port of its own, with these settings."""
    with ExitStack() as servers:
        yield lambda **settings: servers.enter_context(
            Server(
                DATABASE_URL=config_class.SQLALCHEMY_DATABASE_URI,
                SECRET_KEY=config_class.SECRET_KEY,
                **CHEAP,
                **settings,
            )
        )


@pytest.fixture
def server(server_with):
    return server_with()


@pytest.fixture
def new_server(tmp_path):
    """One with a database of its own on SQLite, for what has nothing to do with the database."""
    with Server(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", SECRET_KEY="of tests", **CHEAP) as new:
        yield new
