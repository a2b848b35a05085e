"""Fixtures for all tests: databases, the application, users, servers.

Alice and Bob are registered users. Tests run on SQLite, and also on PostgreSQL
when TEST_DATABASE_URL is set; there each run creates a database and drops it at
the end.
"""

import os
from pathlib import Path

# A developer's .env and environment variables must not change the tests.
os.environ["PYTHON_DOTENV_DISABLED"] = "1"
for line in (Path(__file__).parent.parent / ".env.example").read_text().splitlines():
    name, equals, _ = line.removeprefix("# ").partition("=")
    if equals and name.isupper():
        os.environ.pop(name, None)
        os.environ.pop(f"{name}_FILE", None)
os.environ.pop("FLASK_DEBUG", None)
# Servers send no mail, unless a test has them do so: it would be written into the project.
os.environ["MAIL_SENT_BY"] = "command"

import json
import re
import secrets
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager

import argon2
import flask_migrate
import pytest
import sqlalchemy as sa
from flask import Flask

from app import create_app, db, postgresql
from app.mail import outbox
from app.models import Total, lookup
from app.models.lookup import select_once
from app.security import rate_limits
from config import Config, database_uri
from tests.browser import CHROMIUM, Watched, chromium
from tests.containers import Podman
from tests.contract import ContractClient
from tests.helpers import (
    PASSWORD,
    ROOT,
    Server,
    assert_no_secret_in,
    bearer,
    passwords_seen,
    register_user,
)
from tests.mails import Mailbox
from tests.relay import Relay

Flask.test_client_class = ContractClient

TEST_DATABASE_URL = os.environ.get("TEST_DATABASE_URL")
DATABASES = ["sqlite", "postgresql"] if TEST_DATABASE_URL else ["sqlite"]


def pytest_report_header():
    if TEST_DATABASE_URL:
        return "databases: SQLite and PostgreSQL"
    return "databases: SQLite alone; TEST_DATABASE_URL names no PostgreSQL database"


# Fixtures that start a process; a test that uses one takes seconds.
SLOW_FIXTURES = {
    *("server", "server_with", "new_server", "two_workers", "proxied", "boot", "redis"),
    *("counting", "podman", "machine", "machines", "browser"),
}


def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker("slow")


def pytest_terminal_summary(terminalreporter, config):
    if config.option.markexpr == "not slow":
        terminalreporter.write_line(
            "left out: tests that start processes or browsers, or take seconds; "
            "./test.sh --all runs them"
        )


@pytest.fixture(scope="session", params=DATABASES)
def empty_database(request, tmp_path_factory):
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('database')}/app.db"
        return
    with postgresql_database() as url:
        yield url


@contextmanager
def postgresql_database():
    """The URL of a new database. A schema is not enough: advisory locks belong to a database."""
    name = f"test_{os.getpid()}_{secrets.token_hex(4)}"
    engine = sa.create_engine(database_uri(TEST_DATABASE_URL), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        yield engine.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
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
            # The cheapest parameters: the tests need a hash, not a strong one.
            "ARGON2_MEMORY_KIB": 8,
            "ARGON2_TIME_COST": 1,
            "PASSWORD_HASH_CONCURRENCY": 2,  # on every machine
            "LOGIN_LIMIT_PER_ADDRESS": "1000000 per hour",
            "REGISTRATION_LIMIT_PER_SOURCE": "1000000 per hour",
            "MAIL_LIMIT_PER_SOURCE": "1000000 per hour",
            "MAIL_LIMIT_PER_RECIPIENT": "1000000 per hour",
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
    rate_limits.init_app(migrated_app)
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
def own_clock():
    """In this process, the time is not that of the database: tests travel in time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgresql, "set_clock", lambda *_: None)
        patch.setattr(postgresql, "clock_is_outdated", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def record_passwords():
    """Record every password that is hashed or checked, for `nothing_secret_is_logged`."""

    def noting(method):
        def note(hasher, *args):
            # Only those of several words: a single word may be in a logged line of code.
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
    """Fail if a log of the test contains a token or a password."""
    yield
    for phase in ("setup", "call"):
        for record in caplog.get_records(phase):
            assert_no_secret_in(caplog.handler.format(record))


@pytest.fixture
def events(caplog):
    """Return a function that returns the events of the audit log so far."""
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
def works(client):
    """Return a function that says whether a token opens a route."""

    def works(token):
        status = client.get("/api/users/me", headers=bearer(token)).status_code
        assert status in {200, 401}
        return status == 200

    return works


@pytest.fixture
def mailbox(app, tmp_path, monkeypatch):
    """The folder into which the mails of the outbox are sent."""
    monkeypatch.setattr(outbox, "RESET_DELAY_SECONDS", 0)
    former = app.extensions["mail"]
    yield Mailbox(app, tmp_path / "mail")
    app.extensions["mail"] = former


@pytest.fixture
def verified(client, alice, mailbox):
    """Alice's id; her address is verified, and all mails are sent."""
    body = {"token": mailbox.token()}
    assert client.post("/api/email-verifications", json=body).status_code == 204
    return alice


@pytest.fixture
def leave(client):
    def leave(id, headers):
        response = client.delete(f"/api/users/{id}", headers=headers)
        assert (response.status_code, response.data) == (204, b"")

    return leave


@pytest.fixture
def statements(app):
    """A list to which each SQL statement is added when it is sent to the database."""
    seen = []

    def record(_cursor, statement, _parameters):
        # The lock of a user, on SQLite and on PostgreSQL.
        if not statement.startswith(("BEGIN IMMEDIATE", "SELECT pg_advisory_xact_lock")):
            seen.append(statement)

    with watched(app, record):
        yield seen


@contextmanager
def watched(app, see):
    """Call `see(cursor, statement, parameters)` before each statement."""

    def in_session(_connection, cursor, statement, parameters, *_):
        see(cursor, statement, parameters)

    def alone(engine, statement, parameters, read):
        with engine.connect() as connection:
            see(connection.connection.cursor(), statement, parameters)
        return select_once(engine, statement, parameters, read)

    with app.app_context():
        engine = db.engine
    sa.event.listen(engine, "before_cursor_execute", in_session)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "select_once", alone)
        yield
    sa.event.remove(engine, "before_cursor_execute", in_session)


@pytest.fixture
def plans(app):
    """A list to which (statement, query plan) is added for each SELECT."""
    seen = []
    with app.app_context():
        engine = db.engine
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "

    def record(cursor, statement, parameters):
        if statement.startswith("SELECT"):
            cursor.execute(explain + statement, parameters)
            seen.append((statement, "\n".join(str(row[-1]) for row in cursor.fetchall())))

    def forbid_scans(connection, *_):
        # PostgreSQL would scan so few rows; the test is whether there is an index.
        connection.execute("SET enable_seqscan = off")
        connection.commit()

    if engine.dialect.name == "postgresql":
        engine.dispose()
        sa.event.listen(engine, "connect", forbid_scans)
    with watched(app, record):
        yield seen
    if engine.dialect.name == "postgresql":
        sa.event.remove(engine, "connect", forbid_scans)
        engine.dispose()


def is_full_scan(statement, plan):
    """Whether a statement of `plans` reads all of a table, or of an index."""
    # SQLite's SCAN walks a table; a page of all users does so by its primary
    # key, and stops at its end.
    tables = "|".join(db.metadata.tables)
    walks = re.search(rf"^SCAN ({tables})", plan, re.MULTILINE)
    # PostgreSQL's Index Scan without an Index Cond walks all of the index.
    walks = walks or re.search(
        r"Index (?:Only )?Scan (?:Backward )?using \S+ on \S+.*\n(?!\s*Index Cond)", plan + "\n"
    )
    page = r'FROM "?user"?\s+(WHERE "?user"?.deactivated_at IS NULL )?ORDER BY "?user"?.id\s+LIMIT'
    return "Seq Scan on" in plan or (walks and not re.search(page, statement))


@pytest.fixture
def database(tmp_path):
    """The path of the SQLite file that `file_app` uses."""
    return tmp_path / "a 100%.db"  # a name that needs quoting in a URI


@pytest.fixture
def file_app(config_class, database):
    """An application on its own SQLite file, with the user Susan."""
    if not config_class.SQLALCHEMY_DATABASE_URI.startswith("sqlite"):
        pytest.skip("is no SQLite")
    uri = f"sqlite:///{database}"
    app = create_app(type("FileConfig", (config_class,), {"SQLALCHEMY_DATABASE_URI": uri}))
    with app.app_context():
        flask_migrate.upgrade()
    assert register_user(app.test_client(), "susan").status_code == 201
    yield app
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def client_of(app, config_class):
    """Return a function that makes a client of an application with other settings.

    The application uses the same database.
    """
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
    """Return a function that starts a server on the same database, with other settings."""
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
    """A server with its own SQLite database, for tests that do not depend on the database."""
    uri = f"sqlite:///{tmp_path}/app.db"
    with Server(
        DATABASE_URL=uri, SECRET_KEY="of the tests, long enough for no warning", **CHEAP
    ) as new:
        yield new


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no chromium to drive")
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    contexts = []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        return Watched(contexts[-1].new_page())

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def podman():
    """Podman, with the image of the Dockerfile."""
    # Not a folder of pytest: Podman refuses a --runroot of more than 50 characters.
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as folder:
        podman = Podman(Path(folder))
        try:
            podman.build()
            yield podman
        finally:
            podman.close()


@pytest.fixture
def fresh_copy(tmp_path):
    """A copy of the files in Git, and an environment without this virtual environment."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.split("\0"):
        if name and (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    here = os.environ.get("VIRTUAL_ENV", "no such folder")
    path = [part for part in os.environ["PATH"].split(":") if not part.startswith(here)]
    return tmp_path, environment | {"PATH": ":".join(path)}


@pytest.fixture
def relay(app, config_class):
    url = sa.make_url(config_class.SQLALCHEMY_DATABASE_URI)
    if url.get_backend_name() == "sqlite":
        pytest.skip("SQLite is not reached over a network")
    relay = Relay(url.host, url.port or 5432)
    yield relay
    relay.close()


@pytest.fixture
def relayed_client(relay, config_class):
    url = sa.make_url(config_class.SQLALCHEMY_DATABASE_URI)
    uri = url.set(host="127.0.0.1", port=relay.port).render_as_string(hide_password=False)
    app = create_app(type("RelayedConfig", (config_class,), {"SQLALCHEMY_DATABASE_URI": uri}))
    yield app.test_client()
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def round_trips(relay, relayed_client):
    """Return a function that sends a request and returns the round trips to PostgreSQL."""

    def round_trips(method, path, **options):
        for _ in range(7):  # Psycopg prepares a statement when it is executed the sixth time
            before = relay.round_trips
            response = relayed_client.open(path, method=method, **options)
            assert response.status_code in (200, 201, 204), response.text
        return relay.round_trips - before

    return round_trips
