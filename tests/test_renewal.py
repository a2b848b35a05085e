"""`PUT /api/tokens`: staying logged in, and for how long."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import db
from app.models import User
from tests.helpers import basic, bearer

AGAIN = (
    'Bearer realm="Microblog API", error="invalid_token", '
    'error_description="log in again: the password was given too long ago"'
)


def in_(**time):
    return time_machine.travel(datetime.now(UTC) + timedelta(**time))


@pytest.fixture
def renew(client):
    def renew(token):
        return client.put("/api/tokens", headers=bearer(token))

    return renew


def test_a_renewed_token_is_the_same_and_lives_on(client, token, renew):
    with in_(minutes=50):
        response = renew(token)
        assert response.status_code == 200
        assert response.json == {
            "token": token,
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        assert response.headers["Cache-Control"] == "no-store"
    with in_(minutes=100):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


def test_a_token_as_the_name_of_basic_is_renewed_too(client, token):
    assert client.put("/api/tokens", headers=basic(token, "")).json["token"] == token


def test_renewing_never_shortens_a_life(app, client, alice, renew):
    app.config["TOKEN_LIFETIME_SECONDS"] = 7200
    token = client.post("/api/tokens", headers=basic("alice")).json["token"]
    app.config["TOKEN_LIFETIME_SECONDS"] = 60
    assert renew(token).json["expires_in"] > 7100


def test_30_days_after_the_password_one_logs_in_again(app, client, token, renew):
    app.config["TOKEN_LIFETIME_SECONDS"] = 13 * 3600
    for hours in range(0, 30 * 24, 12):
        with in_(hours=hours):
            assert renew(token).status_code == 200
    with in_(days=30, minutes=-30):
        assert renew(token).json["expires_in"] <= 1800
    with in_(days=30, minutes=-1):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 200
    with in_(days=30, seconds=1):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


def test_a_token_that_can_be_renewed_no_more_says_so(app, client, alice, renew):
    app.config.update(TOKEN_LIFETIME_SECONDS=3 * 24 * 3600, LOGIN_MAX_AGE_DAYS=1)
    token = client.post("/api/tokens", headers=basic("alice")).json["token"]
    with in_(days=1, seconds=1):
        response = renew(token)
        assert (response.status_code, response.json) == (401, {"error": "Unauthorized"})
        assert response.headers["WWW-Authenticate"] == AGAIN


def test_the_password_given_again_begins_the_30_days_anew(app, client, alice, renew, log_in):
    app.config["TOKEN_LIFETIME_SECONDS"] = 25 * 24 * 3600
    token = log_in("alice")
    with in_(days=20):
        assert log_in("alice") == token
    with in_(days=24):
        assert renew(token).status_code == 200
    with in_(days=45):
        assert renew(token).status_code == 200
    with in_(days=50, seconds=1):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


def test_a_password_is_no_token_to_renew(client, alice, token):
    response = client.put("/api/tokens", headers=basic("alice"))
    assert response.status_code == 403
    assert "POST" in response.json["message"]


def test_an_access_token_is_not_renewed(client, alice):
    body = {"name": "phone", "scope": "read write"}
    made = client.post("/api/access-tokens", json=body, headers=basic("alice")).json
    assert client.put("/api/tokens", headers=bearer(made["token"])).status_code == 403


def test_a_token_that_has_just_ended_is_not_revived(app, client, token, renew, monkeypatch):
    renewing = User.renew_token

    def end_in_between(user, *args):
        with db.engine.begin() as other:
            other.execute(sa.update(User).values(token=None, token_expiration=None))
        return renewing(user, *args)

    monkeypatch.setattr(User, "renew_token", end_in_between)
    assert renew(token).status_code == 401
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
