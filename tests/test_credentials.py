"""Credentials that are missing, wrong or broken, and the challenges they meet."""

import base64
import re
import statistics
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import db, tokens
from app.models import User
from tests.helpers import PASSWORD, basic, bearer

PLAIN = 'Bearer realm="Microblog API"'
INVALID = f'{PLAIN}, error="invalid_token", error_description="the token is not valid"'
EXPIRED = f'{PLAIN}, error="invalid_token", error_description="the token has expired"'
BASIC = 'Basic realm="Microblog API", charset="UTF-8"'

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


def test_every_route_but_registration_is_protected(app, client):
    routes = {
        (method, re.sub("<int:.*?>", "1", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert routes > {("POST", "/api/tokens"), *PROTECTED}
    for method, path in routes - {("POST", "/api/users"), ("GET", "/static/<path:filename>")}:
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
        ("alice", "wrong password"),
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


def test_an_unknown_user_costs_the_time_of_a_wrong_password(app, client, alice, monkeypatch):
    # Hashes of some 10 ms, so that they stand out from the noise.
    app.config.update(ARGON2_MEMORY_KIB=8192, ARGON2_TIME_COST=2)
    client.post("/api/tokens", auth=("alice", PASSWORD))  # now hashed with these

    def seconds(login):
        start = time.process_time()
        client.post("/api/tokens", auth=(login, "wrong password"))
        return time.process_time() - start

    pairs = [(seconds("alice"), seconds("nobody")) for _ in range(21)]
    ratio = statistics.median(known / unknown for known, unknown in pairs)
    assert 0.8 < ratio < 1.25


def test_a_user_without_password_costs_the_time_of_a_wrong_one(app, client, alice, monkeypatch):
    with app.app_context():
        db.session.execute(sa.update(User).values(password_hash=None))
        db.session.commit()
    hashed = []
    monkeypatch.setattr("app.passwords.hash_password", hashed.append)
    is_refused(client.post("/api/tokens", auth=("alice", PASSWORD)), BASIC)
    assert hashed == [PASSWORD]
