"""A database that does not answer: 503 in JSON, and recovery when it answers again."""

import contextlib
import sqlite3

import pytest
import sqlalchemy as sa

from app import create_app, db
from app.extensions import PostgreSQLConnection, engine_options
from tests.helpers import PASSWORD, basic, bearer


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
        # Reads are not blocked.
        headers = bearer(token)
        assert impatient_client.get("/api/users/me", headers=headers).status_code == 200
        other.execute("ROLLBACK")
    assert impatient_client.post("/api/tokens", headers=basic("alice")).status_code == 200
