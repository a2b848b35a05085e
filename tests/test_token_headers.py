"""What responses say about an access token: that it expires soon, and its limit."""

import cProfile
import gc
import time

import pytest
from werkzeug.test import EnvironBuilder

from app import db
from app.security import rate_limits
from tests.helpers import at_once, basic, bearer, later

DAY = 24 * 3600
WEEK = 7 * DAY
EXPIRES_IN = "X-Token-Expires-In"
MESSAGE = "too many requests with this token; try again when the Retry-After header says"


@pytest.fixture
def make(client, alice):
    def make(name="script", scope="read write introspect", **fields):
        body = {"name": name, "scope": scope, **fields}
        response = client.post("/api/access-tokens", json=body, headers=basic("alice"))
        assert response.status_code == 201, response.text
        return response.json

    return make


@pytest.fixture
def get(client):
    """Return a function that asks with a token, and closes the response as a server does."""

    def get(text, path="/api/users/me", method="GET", headers=None):
        with client.open(path, method=method, headers=headers or bearer(text)) as response:
            return response

    return get


# -- Expiry ----------------------------------------------------------------------------


def test_a_response_says_that_its_access_token_expires_within_a_week(make, get):
    text = make(expires_in=8 * DAY)["token"]
    assert EXPIRES_IN not in get(text).headers
    with later(days=1, seconds=10):
        seconds = int(get(text).headers[EXPIRES_IN])
        assert WEEK - 20 < seconds < WEEK - 5
    with later(days=8, seconds=10):
        refused = get(text)
        assert refused.status_code == 401
        assert EXPIRES_IN not in refused.headers


def test_errors_and_basic_credentials_get_the_expiry_too(app, client, make, get, monkeypatch):
    text = make(scope="write", expires_in=600)["token"]
    assert get(text).status_code == 403
    for response in (
        get(text),
        get(text, "/api/users/1000000", "PUT"),
        get(text, "/api/tokens", headers=basic(text, "")),
        get(text, "/api/tokens", "HEAD"),
    ):
        assert 590 < int(response.headers[EXPIRES_IN]) <= 600
    app.config["PROPAGATE_EXCEPTIONS"] = False
    monkeypatch.setattr("app.api.tokens.TokenInfo.dump", None)
    failed = get(text, "/api/tokens")
    assert failed.status_code == 500
    assert EXPIRES_IN in failed.headers


def test_in_an_overlap_each_text_has_its_own_expiry(client, make, get):
    made = make(expires_in=30 * DAY)
    path = f"/api/access-tokens/{made['id']}/rotation"
    body = {"overlap_seconds": 600}
    new = client.post(path, json=body, headers=basic("alice")).json["token"]
    assert 590 < int(get(made["token"]).headers[EXPIRES_IN]) <= 600
    assert EXPIRES_IN not in get(new).headers


def test_other_credentials_have_no_such_headers(make, get, token):
    make(expires_in=60, limit="1 per minute")
    for headers in (bearer(token), basic("alice")):
        names = set(get(None, headers=headers).headers.keys())
        assert not names & {EXPIRES_IN, "RateLimit", "RateLimit-Policy"}


def test_a_page_of_an_allowed_origin_may_read_the_headers(client_of, make):
    text = make(expires_in=60, limit="9 per minute")["token"]
    client = client_of(CORS_ORIGINS=("https://app.example.com",))
    headers = bearer(text) | {"Origin": "https://app.example.com"}
    response = client.get("/api/users/me", headers=headers)
    exposed = set(response.headers["Access-Control-Expose-Headers"].split(", "))
    assert {EXPIRES_IN, "RateLimit", "RateLimit-Policy"} <= exposed & set(response.headers.keys())


# -- Limits ----------------------------------------------------------------------------


def test_requests_beyond_the_limit_of_a_token_get_429(make, get):
    made = make(limit="3 per minute")
    assert made["limit"] == "3 per minute"
    for remaining in (2, 1, 0):
        response = get(made["token"])
        assert response.status_code == 200
        assert response.headers["RateLimit-Policy"] == '"default";q=3;w=60'
        name, r, t = response.headers["RateLimit"].split(";")
        assert (name, r) == ('"default"', f"r={remaining}")
        assert 55 <= int(t.removeprefix("t=")) <= 60
    refused = get(made["token"])
    assert (refused.status_code, refused.json["message"]) == (429, MESSAGE)
    assert refused.headers["RateLimit-Policy"] == '"default";q=3;w=60'
    wait = int(refused.headers["Retry-After"])
    assert refused.headers["RateLimit"] in {f'"default";r=0;t={wait + n}' for n in (-1, 0)}
    assert 55 <= wait <= 60


def test_in_its_last_second_the_window_has_one_second_left(make, get, monkeypatch):
    text = make(limit="3 per minute")["token"]
    now = rate_limits.monotonic_now()
    monkeypatch.setattr(rate_limits, "monotonic_now", lambda: now)
    assert get(text).status_code == 200
    monkeypatch.setattr(rate_limits, "monotonic_now", lambda: now + 59.5)
    assert get(text).headers["RateLimit"] == '"default";r=1;t=1'


def test_a_window_that_redis_rounds_to_0_seconds_has_1_left(make, get, monkeypatch):
    text = make(limit="3 per minute")["token"]
    assert get(text).status_code == 200
    monkeypatch.setattr(rate_limits.ProcessStorage, "get_expiry", lambda *_: time.time())
    assert get(text).headers["RateLimit"] == '"default";r=1;t=1'


def test_retry_after_is_1_in_a_window_of_one_second(make, get, monkeypatch):
    text = make(limit="1 per second")["token"]
    monkeypatch.setattr(rate_limits, "monotonic_now", lambda: 100.0)
    assert get(text).status_code == 200
    refused = get(text)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")


def test_after_the_window_the_token_works_again(make, get):
    text = make(limit="1 per second")["token"]
    statuses = set()
    while statuses != {200, 429}:
        statuses.add(get(text).status_code)
    while get(text).status_code == 429:
        pass


@pytest.mark.parametrize("limit", ["20 per 5 minutes", "6000 per minute", "1 per day", None])
def test_the_limit_is_shown_with_the_token(client, make, limit):
    made = make(limit=limit)
    shown = client.get(f"/api/access-tokens/{made['id']}", headers=basic("alice")).json
    assert shown["limit"] == made["limit"] == limit


def test_concurrent_requests_cannot_exceed_the_limit(app, make):
    text = make(limit="5 per minute")["token"]

    def ask(_):
        return app.test_client().get("/api/users/me", headers=bearer(text)).status_code

    assert sorted(at_once(12, ask)) == [200] * 5 + [429] * 7


def test_each_token_has_its_own_count_and_both_texts_of_one_share_it(client, make, get):
    made, other = make(limit="2 per minute"), make("other", limit="2 per minute")
    path = f"/api/access-tokens/{made['id']}/rotation"
    new = client.post(path, json={"overlap_seconds": 60}, headers=basic("alice")).json
    assert new["limit"] == "2 per minute"
    statuses = [get(text).status_code for text in (made["token"], new["token"], made["token"])]
    assert statuses == [200, 200, 429]
    assert get(new["token"]).status_code == 429
    assert get(other["token"]).status_code == 200
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200


def test_a_refused_request_counts_and_changes_nothing(client, make, get, alice):
    text = make(scope="write", limit="2 per minute")["token"]
    assert get(text).status_code == 403
    assert get(text).status_code == 403
    path, body = f"/api/users/{alice}", {"about_me": "Hi"}
    assert client.put(path, json=body, headers=bearer(text)).status_code == 429
    assert client.get("/api/users/me", headers=basic("alice")).json["about_me"] is None


def test_introspection_of_a_limited_token_does_not_charge_it(client, make, get):
    text = make(limit="1 per minute")["token"]
    service = make("service", scope="introspect", limit="3 per minute")["token"]

    def ask():
        data = {"token": text}
        return client.post("/api/tokens/introspect", data=data, headers=bearer(service))

    for _ in range(2):
        assert ask().json["active"] is True
    assert get(text).status_code == 200
    assert get(text).status_code == 429
    assert ask().json["active"] is True  # also where the limit is reached
    assert ask().status_code == 429  # of the service's own token


def test_a_setting_that_is_lowered_limits_existing_tokens_too(app, make, get):
    text = make(limit="100 per minute")["token"]
    for most, policy in (("50 per minute", "q=50;w=60"), ("100 per hour", "q=100;w=3600")):
        app.config["ACCESS_TOKEN_LIMIT"] = most
        assert get(text).headers["RateLimit-Policy"] == f'"default";{policy}'


def test_a_setting_that_is_lowered_does_not_replace_the_limit_of_a_token(
    app, make, get, monkeypatch
):
    text = make(limit="3 per hour")["token"]
    app.config["ACCESS_TOKEN_LIMIT"] = "2 per minute"
    assert [get(text).status_code for _ in range(3)] == [200, 200, 429]
    now = rate_limits.monotonic_now()
    monkeypatch.setattr(rate_limits, "monotonic_now", lambda: now + 61)
    last, refused = get(text), get(text)
    assert (last.status_code, refused.status_code) == (200, 429)
    assert last.headers["RateLimit-Policy"] == '"default";q=3;w=3600'
    assert int(refused.headers["Retry-After"]) > 3500


@pytest.mark.parametrize(
    ("limit", "is_allowed"),
    [
        ("60 per minute", True),
        ("1 per second", True),
        ("60 per hour", True),
        ("61 per hour", False),
        ("2 per second", False),
        ("30 per 29 seconds", False),
    ],
)
def test_a_limit_never_allows_more_than_the_setting_in_any_time(
    app, client, make, limit, is_allowed
):
    app.config["ACCESS_TOKEN_LIMIT"] = "60 per minute"
    body = {"name": "x", "scope": "read", "limit": limit}
    response = client.post("/api/access-tokens", json=body, headers=basic("alice"))
    assert response.status_code == (201 if is_allowed else 400)
    if not is_allowed:
        assert "and at most 60 per minute" in response.json["errors"]["limit"][0]


# -- Cost ------------------------------------------------------------------------------


def test_a_token_without_a_limit_pays_nothing_for_limits(app, make, token):
    texts = {
        "plain": make("plain", "read", expires_in=30 * DAY)["token"],
        "limited": make("limited", "read", limit="100 per minute")["token"],
        "ending": make("ending", "read", expires_in=60)["token"],
    }
    called = {name: functions(app, bearer(text)) for name, text in texts.items()}
    called["login"] = functions(app, bearer(token))
    with app.app_context():
        db.engine.dispose()
    for name in ("plain", "login"):
        assert not any(
            "auth/token_headers" in file or "rate_limits" in file for file in called[name]
        )
    assert sum(called["plain"].values()) <= sum(called["login"].values())
    assert any("rate_limits" in file for file in called["limited"])
    assert not any("rate_limits" in file for file in called["ending"])
    assert any("auth/token_headers" in file for file in called["ending"])


def functions(app, headers):
    """Return how many functions of each file a request calls, those in C by their names.

    Of several requests, the one that calls the fewest: now and then one reads a clock again, or
    drops what an earlier test has left.
    """
    environ = EnvironBuilder("/api/users/me", headers=headers).get_environ()

    def run():
        body = app(dict(environ), lambda *_: None)
        b"".join(body)
        body.close()

    run()
    return min((_calls(run) for _ in range(5)), key=lambda counts: sum(counts.values()))


def _calls(run):
    profile = cProfile.Profile()
    gc.disable()  # a collection would count the finalizers of what other tests left
    try:
        profile.runcall(run)
    finally:
        gc.enable()
    counts = {}
    for entry in profile.getstats():
        file = getattr(entry.code, "co_filename", str(entry.code))
        counts[file] = counts.get(file, 0) + entry.callcount
    return counts
