"""Credentials that are missing, wrong or broken, and the challenges they meet."""

import base64
import re
import statistics
import time
from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from app import db, tokens
from app.models import User
from tests.helpers import PASSWORD, PUBLIC, basic, bearer

PLAIN = 'Bearer realm="Microblog API"'
INVALID = f'{PLAIN}, error="invalid_token", error_description="the token is not valid"'
EXPIRED = f'{PLAIN}, error="invalid_token", error_description="the token has expired"'
BASIC = 'Basic realm="Microblog API", charset="UTF-8"'

LIMITS = ("LOGIN_LIMIT_PER_SOURCE", "LOGIN_LIMIT_PER_ACCOUNT")

PROTECTED = [
    ("GET", "/api/users"),
    ("GET", "/api/users/1"),
    ("GET", "/api/users/me"),
    ("PUT", "/api/users/1"),
    ("GET", "/api/tokens"),
    ("DELETE", "/api/tokens"),
]


def is_refused(response, challenge):
    assert response.status_code == 401, response.text
    assert response.json == {"error": "Unauthorized"}
    assert response.headers.getlist("WWW-Authenticate") == [challenge]


# -- Missing ---------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_without_credentials_a_route_challenges_and_says_nothing_more(client, method, path):
    is_refused(client.open(path, method=method), PLAIN)


def test_every_route_but_the_public_ones_is_protected(app, client):
    routes = {
        (method, re.sub("<int:.*?>", "1", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert routes > {("POST", "/api/tokens"), *PROTECTED}
    for method, path in routes - PUBLIC:
        assert client.open(path, method=method).status_code == 401, f"{method} {path} is open"


@pytest.mark.parametrize("body", [None, "{}"])
def test_a_bare_log_in_never_reaches_a_user_without_name_or_password(app, client, body):
    with app.app_context():
        nobody = User(username="", email="")
        nobody.set_password("")
        db.session.add(nobody)
        db.session.commit()
    is_refused(client.post("/api/tokens", data=body), BASIC)
    for headers in (basic("", ""), basic("", PASSWORD), basic("alice", "")):
        is_refused(client.post("/api/tokens", headers=headers), BASIC)


# -- Wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "password"),
    [
        ("alice", "not my password"),
        ("nobody", PASSWORD),
        ("a@b.example", PASSWORD),
        ("alice", "x" * 2000),
    ],
)
def test_a_wrong_name_or_password_is_refused(client, alice, login, password):
    is_refused(client.post("/api/tokens", auth=(login, password)), BASIC)
    is_refused(client.get("/api/users/me", auth=(login, password)), BASIC)


def test_an_expired_token_is_told_from_an_invalid_one(client, token):
    is_refused(client.get("/api/users", headers=bearer(tokens.make())), INVALID)
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=3601)):
        is_refused(client.get("/api/users", headers=bearer(token)), EXPIRED)
        is_refused(client.get("/api/users", headers=basic(token, "")), EXPIRED)


@pytest.mark.parametrize("scheme", ["Bearer", "Foo", "Digest", "Negotiate", "Basic,", "BasicX"])
def test_only_the_scheme_basic_logs_in(client, alice, scheme):
    headers = basic("alice", scheme=scheme)
    is_refused(client.post("/api/tokens", headers=headers), BASIC)
    is_refused(
        client.get("/api/users/me", headers=headers), INVALID if scheme == "Bearer" else PLAIN
    )


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "bAsIc"])
def test_the_scheme_basic_logs_in_in_any_case(client, alice, scheme):
    headers = basic("alice", scheme=scheme)
    assert client.post("/api/tokens", headers=headers).status_code == 200
    assert client.get("/api/users/me", headers=headers).status_code == 200


# -- Broken ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "credentials",
    [
        "",
        "alice:correct horse",
        "%%%%",
        "YWxpY2U",
        base64.b64encode(b"alice").decode(),
        base64.b64encode(b"ali\0ce:correct horse").decode(),
        base64.b64encode(b"\0:\0").decode(),
        base64.b64encode(b"alice\xff:correct horse").decode(),
        base64.b64encode(b"\xfe\xff:\xff").decode(),
        base64.b64encode(("a" * 5000 + ":x").encode()).decode(),
        base64.b64encode("алиса@пример:пароль".encode()).decode(),
    ],
)
def test_broken_basic_credentials_are_refused(client, alice, credentials):
    headers = {"Authorization": f"Basic {credentials}"}
    is_refused(client.post("/api/tokens", headers=headers), BASIC)
    assert client.get("/api/users/me", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "header", ["Basic \xff", "Basic \xff\xfe:x", "Bearer \xff", "\xff", "\xff x"]
)
def test_headers_that_are_not_ascii_are_refused(client, alice, header):
    environ = {"HTTP_AUTHORIZATION": header}
    is_refused(client.post("/api/tokens", environ_overrides=environ), BASIC)
    assert client.get("/api/users/me", environ_overrides=environ).status_code == 401


@pytest.mark.parametrize(
    "token",
    [
        "",
        " ",
        "x",
        "x" * 8000,
        "mbl_",
        "mbl_" + "A" * 36,
        "tökén",
        "\xff\xfe",
        "a=b",
        "a b",
        '"',
        "mbl_%00",
    ],
)
def test_broken_tokens_are_refused_without_asking_the_database(client, statements, token):
    response = client.get("/api/users", headers={"Authorization": f"Bearer {token}"})
    is_refused(response, INVALID)
    assert statements == []


@pytest.mark.parametrize("header", ["", "Basic", "Bearer", " ", "=", "Basic " + "=" * 100])
def test_headers_without_credentials_are_refused(client, header):
    response = client.get("/api/users", headers={"Authorization": header})
    assert response.status_code == 401
    assert response.json == {"error": "Unauthorized"}
    is_refused(client.post("/api/tokens", headers={"Authorization": header}), BASIC)


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_a_token_in_the_address_is_refused(client, token, name):
    for headers in ({}, bearer(token)):
        response = client.get(f"/api/users?{name}={token}", headers=headers)
        assert response.status_code == 400
        assert "Authorization" in response.json["message"]
        assert token not in response.text


# -- Telling nothing -------------------------------------------------------------------


def test_a_refusal_costs_the_same_whatever_was_wrong(app, client, register):
    # Hashes of some 10 ms, as slow to a guesser as those of a server.
    app.config.update(ARGON2_MEMORY_KIB=8192, ARGON2_TIME_COST=2)
    app.config.update(dict.fromkeys(LIMITS, "1000000 per hour"))
    ids = {name: register(name) for name in ("alice", "left", "null")}
    client.delete(f"/api/users/{ids['left']}", headers=basic("left"))
    with app.app_context():
        db.session.get(User, ids["null"]).password_hash = None
        db.session.commit()
    wrong = {name: basic(name, "not my password") for name in ("alice", "nobody", "left", "null")}
    wrong["over-long"] = basic("alice", "x" * 2000)
    milliseconds = {name: [] for name in wrong}
    for _ in range(100):
        for name, headers in wrong.items():
            start = time.process_time()
            is_refused(client.post("/api/tokens", headers=headers), BASIC)
            milliseconds[name].append((time.process_time() - start) * 1000)
    medians = {name: statistics.median(times) for name, times in milliseconds.items()}
    for name, median in medians.items():
        assert 0.95 < median / medians["alice"] < 1.05, f"{name}: {medians}"
