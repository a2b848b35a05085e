"""/livez and /readyz, and what makes a server unready."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from app import db
from tests.helpers import Server, basic
from tests.services import PostgreSQL

pytestmark = pytest.mark.alone  # measures how long answers take


@pytest.fixture
def readyz(client_of):
    """Return the answer of an application that has not been asked yet."""

    def readyz(**settings):
        return client_of(**settings).get("/readyz")

    return readyz


@pytest.fixture
def set_revision(app):
    def set_revision(revision):
        with app.app_context(), db.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE alembic_version SET version_num = :r"), {"r": revision}
            )

    with app.app_context():
        (former,) = db.session.scalars(sa.text("SELECT version_num FROM alembic_version"))
        db.session.rollback()
    yield set_revision
    set_revision(former)


def test_a_server_is_alive_and_ready(client, readyz):
    assert client.get("/livez").json == {"status": "alive"}
    answer = readyz()
    assert (answer.status_code, answer.json) == (200, {"status": "ready"})
    assert answer.headers["Cache-Control"] == "no-store"


def test_an_older_schema_is_not_ready(readyz, set_revision, caplog):
    set_revision("0001")
    answer = readyz()
    message = "the schema is older than the code; run `flask db upgrade`"
    assert (answer.status_code, answer.json["message"]) == (503, message)
    assert answer.headers["Retry-After"] == "5"
    assert f"not ready: {message}" in caplog.text


def test_a_newer_schema_is_ready(readyz, set_revision):
    set_revision("of_a_newer_release")
    assert readyz().status_code == 200


def test_a_database_without_tables_is_not_ready(readyz, tmp_path):
    (tmp_path / "empty.db").touch()
    answer = readyz(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/empty.db")
    assert answer.json["message"] == "the database has no tables; run `flask db upgrade`"


def test_a_database_that_is_away_is_not_ready(readyz):
    answer = readyz(
        SQLALCHEMY_DATABASE_URI="postgresql+psycopg://127.0.0.1:1/nothing", SECRET_KEY="x" * 32
    )
    assert (answer.status_code, answer.json["message"]) == (503, "the database does not answer")


@pytest.mark.parametrize(("hours", "shown"), [(2, "+7200"), (-2, "-7200")])
def test_a_clock_that_is_off_is_not_ready(readyz, monkeypatch, hours, shown):
    monkeypatch.setattr("app.http.health.seconds_ahead", lambda: hours * 3600.0)
    message = readyz().json["message"]
    assert message == f"the clock is {shown} s off that of the database"


def test_redis_is_reported_and_never_fatal(readyz):
    answer = readyz(REDIS_URL="redis://127.0.0.1:1/0")
    assert (answer.status_code, answer.json["redis"]) == (200, "does not answer")


def test_trusted_hosts_do_not_apply_to_health(client_of):
    client = client_of(TRUSTED_HOSTS=["api.example.com"])
    assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    assert client.get("/docs").status_code == 400


def test_the_database_is_asked_once_a_second(client_of):
    client = client_of()
    asked = []
    client.get("/readyz")
    engine = client.application.extensions["readiness"]._engine  # noqa: SLF001  what it asks shows nowhere else
    sa.event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert client.get("/readyz").status_code == 200
    checks = [statement for statement in asked if "version_num" in statement]
    assert 1 <= len(checks) <= 3


@pytest.mark.slow
def test_a_frozen_postgresql_is_not_ready_and_the_server_stays_alive():
    with (
        PostgreSQL() as postgresql,
        Server(DATABASE_URL=postgresql.url, SECRET_KEY="x" * 32, WEB_THREADS="4") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        assert server.request("GET", "/readyz").status == 200
        postgresql.freeze()
        for number in range(8):  # twice as many as there are threads
            pool.submit(server.request, "POST", "/api/tokens", headers=basic(f"nobody{number}"))
        time.sleep(1.1)
        start = time.monotonic()
        answer = server.request("GET", "/readyz")
        assert answer.status == 503
        assert answer.json["message"] == "the database does not answer within 1 s"
        assert server.request("GET", "/livez").status == 200
        assert time.monotonic() - start < 2
        postgresql.thaw()
        end = time.monotonic() + 15
        while server.request("GET", "/readyz").status != 200:
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.mark.slow
def test_a_server_that_drains_is_not_ready_and_still_serves(tmp_path):
    with Server(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", DRAIN_SECONDS="60") as server:
        assert server.request("GET", "/readyz").status == 200
        server.process.terminate()
        time.sleep(0.3)
        answer = server.request("GET", "/readyz")
        assert (answer.status, answer.json["message"]) == (503, "the server is stopping")
        assert server.request("GET", "/api/users").status == 401
        assert server.request("GET", "/livez").status == 200
        server.process.terminate()
        assert server.process.wait(timeout=10) == 0
