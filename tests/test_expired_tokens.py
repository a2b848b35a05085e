"""Many thousands of expired tokens of a user do not make requests of that user slower."""

import itertools
import statistics
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from app import db
from app.clock import utc_now
from app.models import AccessToken, DeviceSession
from app.models.stored_token import PRUNED_WITH_EACH
from app.security import tokens
from tests.helpers import basic, bearer

pytestmark = pytest.mark.alone  # measures how long a search takes

COUNT = 20_000
ROUNDS = 30
# Of the time of a user who has none. To read them all takes more than twice as long.
HIGHEST_RATIO = 1.5


@pytest.fixture
def expire(app, alice):
    """Return a function that stores expired access tokens and log ins of devices of Alice's."""

    def expire(days, count=COUNT):
        end = utc_now() - timedelta(days=days)
        common = {"user_id": alice, "token_expiration": end, "created": end}

        def rows(**fields):
            digests = (tokens.digest(tokens.make()) for _ in range(count))
            return [common | {"digest": digest} | fields for digest in digests]

        with app.app_context():
            db.session.execute(sa.insert(AccessToken), rows(name="old", scope="read"))
            db.session.execute(sa.insert(DeviceSession), rows(device="old"))
            db.session.commit()
            if db.engine.dialect.name == "postgresql":
                db.session.execute(sa.text("ANALYZE access_token, device_session"))
                db.session.commit()

    return expire


def requests_of(client, name, token):
    """Return what a user does with tokens: functions that send a request, by name."""
    number = itertools.count()

    def create():
        body = {"name": f"token {next(number)}", "scope": "read"}
        return client.post("/api/access-tokens", json=body, headers=bearer(token))

    def log_in(body=None):
        return client.post("/api/tokens", json=body, headers=basic(name))

    return {
        "create": create,
        "list": lambda: client.get("/api/access-tokens", headers=bearer(token)),
        "log in": log_in,
        "log in of a device": lambda: log_in({"device": "phone"}),
        "list log ins": lambda: client.get("/api/sessions", headers=bearer(token)),
    }


def seconds(send):
    start = time.perf_counter()
    assert send().status_code < 300
    return time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.parametrize("days", [1, 60])
def test_expired_tokens_make_no_request_slower(client, alice, bob, log_in, expire, days):
    """Alice has many thousands of them, Bob none; they ask in turns."""
    expire(days)
    of_alice, of_bob = (requests_of(client, name, log_in(name)) for name in ("alice", "bob"))
    ratios = {}
    for name, send in of_alice.items():
        pairs = [(seconds(send), seconds(of_bob[name])) for _ in range(ROUNDS)]
        with_expired, without = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratios[name] = round(with_expired / without, 2)
    print(ratios)
    assert max(ratios.values()) < HIGHEST_RATIO, ratios


def test_live_tokens_are_found_by_an_index_that_passes_over_expired_ones(
    client, token, expire, plans
):
    expire(1, count=2000)
    for send in requests_of(client, "alice", token).values():
        send()
    plans_of_live = [
        (table, statement, plan)
        for statement, plan in plans
        for table in ("access_token", "device_session")
        if f"{table}.token_expiration >" in statement
    ]
    assert len(plans_of_live) >= 5
    for table, statement, plan in plans_of_live:
        assert f"ix_{table}_user_id" in plan, f"{statement}\n{plan}"


def test_each_new_token_deletes_a_few_that_expired_long_ago(app, client, token, expire):
    expire(60, count=2 * PRUNED_WITH_EACH)
    requests = requests_of(client, "alice", token)
    for left in (PRUNED_WITH_EACH, 0, 0):
        requests["create"]()
        requests["log in of a device"]()
        with app.app_context():
            for old in (AccessToken.name == "old", DeviceSession.device == "old"):
                assert db.session.scalar(sa.select(sa.func.count()).where(old)) == left
