"""A database that does not answer: 503 in JSON, and recovery when it answers again."""

import contextlib
import sqlite3

import pytest
import sqlalchemy as sa

from app import create_app, db
from app.auth import public
from app.extensions import engine_options
from app.models import User
from app.postgresql import PostgreSQLConnection
from tests.helpers import PASSWORD, basic, bearer

# SQLSTATEs of a server that ends a session, has too much to do, or takes no statement now.
UNAVAILABLE = {
    "connection_failure": "08006",
    "protocol_violation": "08P01",  # PgBouncer's
    "read_only_sql_transaction": "25006",
    "serialization_failure": "40001",
    "deadlock_detected": "40P01",
    "disk_full": "53100",
    "too_many_connections": "53300",
    "lock_not_available": "55P03",
    "query_canceled": "57014",
    "admin_shutdown": "57P01",
    "crash_shutdown": "57P02",
    "cannot_connect_now": "57P03",
    "io_error": "58030",
}


def assert_unavailable(response):
    assert response.status_code == 503, response.text
    assert response.headers["Retry-After"] == "5"
    assert response.json == {
        "error": "Service Unavailable",
        "message": "the database does not answer; try again shortly",
    }


def assert_everything_is_unavailable(client, token):
    assert_unavailable(client.get("/api/users/me", headers=bearer(token)))
    assert_unavailable(client.get("/api/users", headers=bearer(token)))
    assert_unavailable(client.post("/api/tokens", headers=basic("alice")))
    body = {"username": "carol", "email": "carol@example.com", "password": PASSWORD}
    assert_unavailable(client.post("/api/users", json=body))


def assert_everything_works(client, token):
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 200


def test_an_unreachable_database_gives_503_until_it_is_back(relay, relayed_client, token, caplog):
    assert_everything_works(relayed_client, token)
    relay.cut()
    assert_everything_is_unavailable(relayed_client, token)
    assert "the database does not answer" in caplog.text
    assert "Traceback" not in caplog.text
    relay.mode = "open"
    assert_everything_works(relayed_client, token)


def test_a_database_restart_between_requests_fails_no_request(relay, relayed_client, token):
    for _ in range(3):
        assert_everything_works(relayed_client, token)
        relay.cut()
        relay.mode = "open"


@pytest.mark.parametrize("connected", [False, True])
def test_a_database_that_stops_answering_gives_503(
    relay, relayed_client, token, monkeypatch, connected
):
    monkeypatch.setattr(PostgreSQLConnection, "answer_seconds", 1)
    if connected:
        assert_everything_works(relayed_client, token)
    relay.mode = "silent"
    assert_unavailable(relayed_client.get("/api/users/me", headers=bearer(token)))
    relay.mode = "open"
    assert_everything_works(relayed_client, token)


@pytest.fixture
def relayed_view(relay, relayed_client, token):
    """Return a function that adds `POST /view`, and returns a function that asks for it."""

    def relayed_view(function):
        app = relayed_client.application
        app.post("/view")(public(function))
        return lambda: app.test_client().post("/view", headers=bearer(token))

    return relayed_view


@pytest.mark.parametrize("mode", ["cut", "silent"])
def test_a_connection_that_is_lost_after_the_work_does_not_replace_the_answer(
    relay, relayed_view, caplog, monkeypatch, mode
):
    monkeypatch.setattr(PostgreSQLConnection, "answer_seconds", 1)
    sessions = []

    def read():
        sessions.append(db.session())
        db.session.scalars(sa.select(User)).all()
        relay.cut() if mode == "cut" else setattr(relay, "mode", mode)
        return {"done": True}

    ask = relayed_view(read)
    for _ in range(2):
        response = ask()
        assert (response.status_code, response.json) == (200, {"done": True})
        relay.mode = "open"
    assert "Traceback" not in caplog.text
    assert sessions[0] is not sessions[1]


@pytest.mark.parametrize("state", UNAVAILABLE.values(), ids=UNAVAILABLE)
def test_an_error_that_is_no_fault_of_the_statement_is_503(relayed_view, state):
    error = f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$"
    assert_unavailable(relayed_view(lambda: db.session.execute(sa.text(error)))())


def test_a_write_after_a_canceled_read_succeeds(relayed_client, alice):
    @relayed_client.application.get("/view")
    @public
    def cancel():
        db.session.execute(sa.text('SELECT pg_cancel_backend(pg_backend_pid()) FROM "user"'))

    assert_unavailable(relayed_client.get("/view"))
    # On the same connection, which is still good.
    assert relayed_client.post("/api/tokens", headers=basic("alice")).status_code == 200


def test_all_connections_are_replaced_after_one_has_reached_a_read_only_server(relayed_view):
    def write():
        connections = [db.engine.connect() for _ in range(3)]
        pids = [connection.scalar(sa.text("SELECT pg_backend_pid()")) for connection in connections]
        for connection in connections:
            connection.close()
        if not seen:
            seen.update(pids)
            db.session.execute(sa.text("SET TRANSACTION READ ONLY"))
            db.session.execute(sa.update(User).values(about_me="x"))
        return pids

    seen = set()
    ask = relayed_view(write)
    assert_unavailable(ask())
    assert seen.isdisjoint(ask().json)


def test_connections_that_are_ended_as_soon_as_they_are_made_give_503(relay, relayed_client, token):
    def end(*_):
        relay.cut()
        relay.mode = "open"

    with relayed_client.application.app_context():
        sa.event.listen(db.engine, "connect", end)
    assert_everything_is_unavailable(relayed_client, token)


@pytest.fixture
def impatient_client(app, config_class):
    """A client of an application that waits a tenth of a second for a lock, not ten."""
    uri = config_class.SQLALCHEMY_DATABASE_URI
    if not uri.startswith("sqlite"):
        pytest.skip("PostgreSQL locks single rows")
    options = engine_options(sa.make_url(uri), threads=1)
    options["connect_args"]["timeout"] = 0.1
    attributes = {"SQLALCHEMY_ENGINE_OPTIONS": options}
    app = create_app(type("ImpatientConfig", (config_class,), attributes))
    yield app.test_client()
    with app.app_context():
        db.engine.dispose()


def test_a_locked_sqlite_file_fails_writes_with_503_and_allows_reads(
    impatient_client, token, config_class
):
    file = sa.make_url(config_class.SQLALCHEMY_DATABASE_URI).database
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert_unavailable(impatient_client.post("/api/tokens", headers=basic("alice")))
        # Else the leaked token would be taken for a revoked one.
        revoked = impatient_client.post("/api/tokens/revoke", data={"token": token})
        assert_unavailable(revoked)
        # Reads are not blocked.
        headers = bearer(token)
        assert impatient_client.get("/api/users/me", headers=headers).status_code == 200
        other.execute("ROLLBACK")
    assert impatient_client.post("/api/tokens", headers=basic("alice")).status_code == 200
