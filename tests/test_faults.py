"""Faults of the database under load, and PgBouncer; services of the test's own.

The long runs: `python -m benchmarks.faults`.
"""

from contextlib import nullcontext

import flask_migrate
import psycopg
import pytest
import sqlalchemy as sa

from app import create_app, db
from app.security import tokens
from benchmarks import faults
from config import Config, database_uri
from tests.helpers import PASSWORD, bearer
from tests.services import ROLE, PgBouncer, PostgreSQL, free_port

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # a cluster that waits loses its primary


@pytest.fixture(scope="module")
def postgresql():
    with PostgreSQL(timezone="America/New_York") as postgresql:
        yield postgresql


@pytest.fixture
def connect():
    """Return a function that makes an application with the database at an URL."""
    apps = []

    def connect(url):
        settings = {"SQLALCHEMY_DATABASE_URI": database_uri(url), "SECRET_KEY": "of tests"}
        apps.append(create_app(type("ServiceConfig", (Config,), settings)))
        with apps[-1].app_context():
            flask_migrate.upgrade()
        return apps[-1]

    yield connect
    for app in apps:
        with app.app_context():
            db.engine.dispose()


# -- Under load ------------------------------------------------------------------------


def assert_served(load):
    """Every request had an answer in JSON, no 500, and no acknowledged write is lost."""
    assert load.failed + load.no_answer + load.no_json + load.lost == [], load
    assert load.statuses[200] > 0
    assert load.statuses[201] > 0
    assert "Traceback" not in "".join(line for server in load.servers for line in server.output)


def test_connections_that_are_ended_under_load_fail_no_request_but_with_503():
    assert_served(faults.terminate(30))


def test_a_database_that_crashes_under_load_loses_no_acknowledged_write():
    load = faults.restart(2)
    assert_served(load)
    assert load.statuses[503] > 0


@pytest.mark.parametrize(
    "settings",
    # In session mode, each of the two servers keeps its 20 connections.
    [{}, {"pool_mode": "session", "default_pool_size": 40}],
    ids=["transaction", "session"],
)
def test_pgbouncer_fails_no_request(settings):
    load = faults.pgbouncer(500, readers=4, **settings)
    assert_served(load)
    assert load.statuses[503] == 0


@pytest.mark.parametrize("fault", ["killed", "frozen", "cut off"])
def test_after_a_failover_nothing_that_was_acknowledged_is_lost_or_undone(fault):
    load = faults.patroni([fault])
    assert_served(load)
    assert load.revived == []
    assert load.statuses[503] > 0
    assert max(load.seconds) < 30, load
    assert load.acknowledged["log outs"] > 10


def test_a_primary_that_was_replaced_while_frozen_answers_for_no_token():
    statuses = faults.thawed()
    assert statuses[401] > 0
    assert statuses.keys() <= {401, 503}


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_redis_that_sentinel_replaces_fails_no_log_in_and_servers_share_counters_again(fault):
    during, afterwards = faults.sentinel(fault)
    assert during.keys() == {200}
    assert afterwards == {401: 20, 429: 10}


def test_what_one_server_revokes_the_other_refuses_at_once():
    assert faults.revocations(300, threads=4) == {401: 300}


def test_a_server_that_takes_no_more_connections_gives_503(postgresql, connect):
    client = connect(postgresql.url).test_client()
    for limit, status in ((0, 503), (-1, 401)):
        with client.application.app_context():
            db.engine.dispose()
        postgresql.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT {limit}")
        for method in ("GET", "DELETE"):
            path, headers = "/api/tokens", bearer(tokens.make())
            assert client.open(path, method=method, headers=headers).status_code == status


# -- PgBouncer -------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [False, True])
def test_the_look_up_of_a_token_is_prepared_unless_a_pooler_is_between(postgresql, connect, pooled):
    with PgBouncer(postgresql, default_pool_size=1) if pooled else nullcontext() as pooler:
        app = connect((pooler or postgresql).url)
        response = app.test_client().get("/api/users/me", headers=bearer(tokens.make()))
        assert response.status_code == 401
        with app.app_context():
            count = sa.text("SELECT count(*) FROM pg_prepared_statements")
            assert db.session.scalar(count) == (0 if pooled else 1)


def test_other_clients_of_pgbouncer_do_not_change_the_time_zone(postgresql, connect):
    show = "SHOW TimeZone"
    with (
        PgBouncer(postgresql, default_pool_size=1) as pooler,
        connect(pooler.url).app_context(),
        psycopg.connect(pooler.url, autocommit=True) as other,
    ):
        other.execute("SET TIME ZONE 'Asia/Tokyo'")
        for _ in range(2):
            assert db.session.scalar(sa.text(show)) == "UTC"
            db.session.rollback()
            assert other.execute(show).fetchone() == ("Asia/Tokyo",)


# -- Several hosts ---------------------------------------------------------------------


def test_of_several_hosts_the_one_that_can_write_is_used_also_after_a_failover(connect):
    def register(name):
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        return client.post("/api/users", json=body).status_code

    with PostgreSQL() as primary, PostgreSQL(primary=primary) as standby:
        hosts = f"127.0.0.1:{free_port()},{standby.address},{primary.address}"
        client = connect(primary.url.replace(primary.address, hosts)).test_client()
        assert register("alice") == 201
        primary.stop()
        assert register("bob") == 503
        standby.promote()
        assert register("carol") == 201
        found = standby.execute('SELECT username FROM "user" ORDER BY id')
    assert found == [("alice",), ("carol",)]
