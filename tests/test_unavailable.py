"""A database that does not answer: 503 in JSON, and back by itself when it returns."""

import contextlib
import select
import socket
import sqlite3
import threading

import pytest
import sqlalchemy as sa

from app import create_app, db
from app.extensions import PostgreSQLConnection, engine_options
from tests.helpers import PASSWORD, basic, bearer


class Relay:
    """A TCP relay to a PostgreSQL server, which can be cut off, or made to swallow everything."""

    def __init__(self, host, port):
        self.target = (host, port)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.connections = []
        self.mode = "open"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                if self.mode == "cut":
                    client.close()
                    continue
                server = socket.create_connection(self.target)
                self.connections += [client, server]
                threading.Thread(target=self._pump, args=(client, server), daemon=True).start()

    def _pump(self, client, server):
        with client, server, contextlib.suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if self.mode != "silent":
                        (server if source is client else client).sendall(data)

    def cut(self):
        self.mode = "cut"
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def close(self):
        self.cut()
        self.socket.close()


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


def is_unavailable(response):
    assert response.status_code == 503, response.text
    assert response.headers["Retry-After"] == "5"
    assert response.json == {
        "error": "Service Unavailable",
        "message": "the database does not answer; try again shortly",
    }


def everything_is_unavailable(client, token):
    is_unavailable(client.get("/api/users/me", headers=bearer(token)))
    is_unavailable(client.get("/api/users", headers=bearer(token)))
    is_unavailable(client.post("/api/tokens", headers=basic("alice")))
    body = {"username": "carol", "email": "carol@example.com", "password": PASSWORD}
    is_unavailable(client.post("/api/users", json=body))


def everything_works(client, token):
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 200


def test_a_database_that_is_cut_off_gives_503_and_comes_back(relay, relayed_client, token, caplog):
    everything_works(relayed_client, token)
    relay.cut()
    everything_is_unavailable(relayed_client, token)
    assert "the database does not answer" in caplog.text
    assert "Traceback" not in caplog.text
    relay.mode = "open"
    everything_works(relayed_client, token)


def test_a_database_that_restarts_between_requests_loses_none(relay, relayed_client, token):
    for _ in range(3):
        everything_works(relayed_client, token)
        relay.cut()
        relay.mode = "open"


@pytest.mark.parametrize("connected", [False, True])
def test_a_database_that_falls_silent_gives_503(
    relay, relayed_client, token, monkeypatch, connected
):
    monkeypatch.setattr(PostgreSQLConnection, "answer_seconds", 1)
    if connected:
        everything_works(relayed_client, token)
    relay.mode = "silent"
    is_unavailable(relayed_client.get("/api/users/me", headers=bearer(token)))
    relay.mode = "open"
    everything_works(relayed_client, token)


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


def test_a_sqlite_file_that_somebody_keeps_locked_gives_503(impatient_client, token, config_class):
    file = sa.make_url(config_class.SQLALCHEMY_DATABASE_URI).database
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        is_unavailable(impatient_client.post("/api/tokens", headers=basic("alice")))
        # Who only reads is not kept waiting.
        headers = bearer(token)
        assert impatient_client.get("/api/users/me", headers=headers).status_code == 200
        other.execute("ROLLBACK")
    assert impatient_client.post("/api/tokens", headers=basic("alice")).status_code == 200
