"""Introspection (RFC 7662) and revocation (RFC 7009) of tokens by other services."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import db
from app.models import User
from app.security import tokens
from tests.helpers import basic, bearer

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def service(client, bob):
    """Headers with an access token of Bob's that has the scope introspect."""
    body = {"name": "service", "scope": "introspect"}
    made = client.post("/api/access-tokens", json=body, headers=basic("bob")).json
    return bearer(made["token"])


@pytest.fixture
def phone(client, alice):
    body = {"name": "phone", "scope": "read write", "expires_in": 3600}
    return client.post("/api/access-tokens", json=body, headers=basic("alice")).json


@pytest.fixture
def introspect(client, service):
    def introspect(text, **form):
        data = {"token": text, **form}
        return client.post("/api/tokens/introspect", data=data, headers=service)

    return introspect


def test_a_token_that_cannot_be_looked_up_is_not_said_to_be_inactive(
    introspect, phone, monkeypatch
):
    def fail(_text):
        raise sa.exc.OperationalError("SELECT", None, Exception("the connection is lost"))

    monkeypatch.setattr("app.api.tokens.find_credential", fail)
    assert introspect(phone["token"]).status_code == 503


def test_introspecting_an_access_token_returns_its_scopes_name_and_user(introspect, phone, alice):
    response = introspect(phone["token"])
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    created = int(datetime.fromisoformat(phone["created"]).timestamp())
    assert response.json == {
        "active": True,
        "scope": "read write",
        "client_id": "phone",
        "username": "alice",
        "sub": str(alice),
        "exp": created + 3600,
        "iat": created,
        "token_type": "Bearer",
    }


def test_introspecting_a_login_token_returns_no_client_id(introspect, token, alice):
    told = introspect(token, token_type_hint="access_token").json
    now = datetime.now(UTC).timestamp()
    assert now - 60 < told.pop("iat") <= now
    assert now + 3500 < told.pop("exp") <= now + 3600
    assert told == {
        "active": True,
        "scope": "read write introspect",
        "username": "alice",
        "sub": str(alice),
        "token_type": "Bearer",
    }


def test_introspecting_the_token_of_a_device_says_when_it_logged_in(client, introspect, alice):
    made = client.post("/api/tokens", json={"device": "phone"}, headers=basic("alice")).json
    told = introspect(made["token"]).json
    assert 3590 < told["exp"] - told["iat"] <= 3600
    assert (told["sub"], "client_id" in told) == (str(alice), False)


def test_introspecting_any_other_token_returns_only_active_false(
    client, introspect, phone, token, alice
):
    login_headers = basic("alice")
    inactive = [tokens.make(), tokens.make(tokens.ACCESS_PREFIX), "", "x", "mba_x", "x" * 5000]
    for text in inactive[:2] + inactive[3:]:
        response = introspect(text)
        assert (response.status_code, response.json) == (200, {"active": False})
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=3601)):
        for text in (phone["token"], token):
            assert introspect(text).json == {"active": False}
    client.delete(f"/api/access-tokens/{phone['id']}", headers=login_headers)
    assert introspect(phone["token"]).json == {"active": False}
    client.delete(f"/api/users/{alice}", headers=login_headers)
    assert introspect(token).json == {"active": False}


@pytest.mark.parametrize("path", ["/api/tokens/introspect", "/api/tokens/revoke"])
@pytest.mark.parametrize(
    "body", [{"data": {}}, {"data": {"tokens": "x"}}, {"json": {"token": "x"}}]
)
def test_a_form_without_the_token_is_refused(client, service, path, body):
    response = client.post(path, headers=service, **body)
    assert response.status_code == 400
    assert list(response.json["errors"]) == ["token"]


def test_introspection_updates_last_used(client, service, phone):
    data = {"token": phone["token"]}
    with client.post("/api/tokens/introspect", data=data, headers=service):
        pass
    path = f"/api/access-tokens/{phone['id']}"
    assert client.get(path, headers=basic("alice")).json["last_used"] is not None


def test_introspection_omits_iat_if_the_time_of_the_log_in_is_unknown(app, introspect, token):
    with app.app_context():
        db.session.execute(sa.update(User).values(logged_in_at=None))
        db.session.commit()
    told = introspect(token).json
    assert told["active"] is True
    assert "iat" not in told


def test_introspection_requires_the_scope_introspect(client, phone):
    data = {"token": phone["token"]}
    refused = client.post("/api/tokens/introspect", data=data, headers=bearer(phone["token"]))
    assert refused.status_code == 403
    assert 'scope="introspect"' in refused.headers["WWW-Authenticate"]
    assert client.post("/api/tokens/introspect", data=data).status_code == 401


# -- Revocation ------------------------------------------------------------------------


def test_a_token_can_be_revoked_without_other_credentials(client, phone, token):
    for text in (phone["token"], token):
        response = client.post("/api/tokens/revoke", data={"token": text})
        assert response.status_code == 200
        assert client.get("/api/users/me", headers=bearer(text)).status_code == 401


@pytest.mark.parametrize(("before", "after"), [(" ", "\n"), ("\ufeff", "\r\n")])
def test_what_a_file_has_around_a_token_does_not_keep_it_from_being_revoked(
    client, introspect, phone, before, after
):
    text = f"{before}{phone['token']}{after}"  # as `curl --data-urlencode token@file` sends it
    assert introspect(text).json["active"] is True
    assert client.post("/api/tokens/revoke", data={"token": text}).status_code == 200
    assert introspect(phone["token"]).json == {"active": False}


@pytest.mark.parametrize(
    "text",
    ["x", "mba_x", tokens.make(), tokens.make(tokens.ACCESS_PREFIX)],
    ids=["text", "short", "login", "access"],
)
def test_revoking_an_unknown_token_succeeds(client, text):
    assert client.post("/api/tokens/revoke", data={"token": text}).status_code == 200


@pytest.mark.parametrize("route", ["revoke", "introspect"])
def test_of_two_tokens_in_a_form_none_is_passed_over(client, phone, route):
    data = {"token": [tokens.make(), phone["token"]]}
    response = client.post(f"/api/tokens/{route}", data=data, headers=basic("alice"))
    assert response.status_code == 400
    assert response.json["errors"] == {"token": ["must be given once"]}


def test_revoking_one_token_leaves_the_others_valid(client, phone, token):
    client.post("/api/tokens/revoke", data={"token": phone["token"]})
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


# -- For a proxy -----------------------------------------------------------------------


def test_a_proxy_can_require_scopes_in_the_query_string(client, phone, token):
    for text, scope, status in [
        (phone["token"], "read", 200),
        (phone["token"], "write read", 200),
        (phone["token"], "introspect", 403),
        (phone["token"], "read introspect", 403),
        (token, "read write introspect", 200),
    ]:
        response = client.get("/api/tokens", query_string={"scope": scope}, headers=bearer(text))
        assert response.status_code == status
        if status == 403:
            assert f'scope="{scope}"' in response.headers["WWW-Authenticate"]
    for query in ("scope=read&scope=write", "scopes=write", "Scope=write"):
        assert client.get(f"/api/tokens?{query}", headers=bearer(token)).status_code == 400
    unknown = client.get("/api/tokens?scope=admin", headers=bearer(token))
    assert unknown.status_code == 400
    assert list(unknown.json["errors"]) == ["scope"]


def test_a_text_that_has_expired_revokes_nothing_and_is_no_event(client, alice, phone, events):
    rotated = client.post(
        f"/api/access-tokens/{phone['id']}/rotation",
        json={"overlap_seconds": 60},
        headers=basic("alice"),
    )
    before = len(events())
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=61)):
        assert client.post("/api/tokens/revoke", data={"token": phone["token"]}).status_code == 200
        headers = bearer(rotated.json["token"])
        assert client.get("/api/users/me", headers=headers).status_code == 200
    assert events()[before:] == []
