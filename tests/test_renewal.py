"""`PUT /api/tokens`: renewing a login token, and how long that is possible."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from app import db
from app.models import User
from tests.helpers import basic, bearer, later

AGAIN = (
    'Bearer realm="Microblog API", error="invalid_token", '
    'error_description="log in again: the password was given too long ago"'
)


@pytest.fixture
def renew(client):
    def renew(token):
        return client.put("/api/tokens", headers=bearer(token))

    return renew


def test_renewing_a_token_extends_its_lifetime_and_keeps_its_text(client, token, renew):
    with later(minutes=50):
        response = renew(token)
        assert response.status_code == 200
        assert response.json == {
            "token": token,
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        assert response.headers["Cache-Control"] == "no-store"
    with later(minutes=100):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


def test_a_token_sent_as_the_basic_user_name_can_be_renewed(client, token):
    assert client.put("/api/tokens", headers=basic(token, "")).json["token"] == token


def test_renewing_never_shortens_the_lifetime_of_a_token(app, client, alice, renew):
    app.config["TOKEN_LIFETIME_SECONDS"] = 7200
    token = client.post("/api/tokens", headers=basic("alice")).json["token"]
    app.config["TOKEN_LIFETIME_SECONDS"] = 60
    assert renew(token).json["expires_in"] > 7100


def test_a_token_cannot_be_renewed_beyond_30_days_after_the_log_in(app, client, token, renew):
    app.config["TOKEN_LIFETIME_SECONDS"] = 13 * 3600
    for hours in range(0, 30 * 24, 12):
        with later(hours=hours):
            assert renew(token).status_code == 200
    with later(days=30, minutes=-30):
        assert renew(token).json["expires_in"] <= 1800
    with later(days=30, minutes=-1):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 200
    with later(days=30, seconds=1):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


@pytest.mark.parametrize("body", [{}, {"device": "phone"}])
def test_a_token_past_its_renewal_limit_gets_a_challenge_to_log_in_again(
    app, client, alice, renew, body
):
    app.config.update(TOKEN_LIFETIME_SECONDS=3 * 24 * 3600, LOGIN_MAX_AGE_DAYS=1)
    token = client.post("/api/tokens", json=body, headers=basic("alice")).json["token"]
    with later(days=1, seconds=1):
        response = renew(token)
        assert (response.status_code, response.json) == (401, {"error": "Unauthorized"})
        assert response.headers["WWW-Authenticate"] == AGAIN


def test_renew_token_returns_false_after_a_log_out(app, client, alice, token):
    client.delete("/api/tokens", headers=bearer(token))
    with app.app_context():
        user = db.session.get(User, alice)
        assert user.renew_token(3600, timedelta(days=30)) is False


def test_a_token_of_the_tutorial_is_not_renewed(app, client, alice, renew):
    """Backups of its database have the text."""
    text = "0123456789abcdef0123456789abcdef"
    now = datetime.now(UTC)
    columns = {"token": text, "token_expiration": now + timedelta(hours=1), "token_created": now}
    with app.app_context():
        db.session.execute(sa.update(User).where(User.id == alice).values(columns))
        db.session.commit()
    assert client.get("/api/users/me", headers=bearer(text)).status_code == 200
    assert renew(text).status_code == 401


def test_a_new_log_in_does_not_prolong_the_30_days_of_a_token(app, client, alice, renew, log_in):
    app.config["TOKEN_LIFETIME_SECONDS"] = 13 * 3600
    stolen = log_in("alice")
    for hours in range(0, 30 * 24, 12):
        with later(hours=hours):
            assert renew(stolen).status_code == 200
            if hours < 29 * 24:
                assert log_in("alice") == stolen
    with later(days=30, hours=-10):  # it can no longer be renewed for 13 hours
        assert renew(stolen).json["expires_in"] <= 10 * 3600
        new = log_in("alice")
        assert new != stolen
        assert client.get("/api/users/me", headers=bearer(stolen)).status_code == 401
        assert log_in("alice") == new
    with later(days=30, hours=-5):
        assert renew(new).json["expires_in"] == 13 * 3600


def test_renewing_with_a_password_is_refused(client, alice, token):
    response = client.put("/api/tokens", headers=basic("alice"))
    assert response.status_code == 403
    assert "POST" in response.json["message"]


def test_an_access_token_cannot_be_renewed(client, alice):
    body = {"name": "phone", "scope": "read write"}
    made = client.post("/api/access-tokens", json=body, headers=basic("alice")).json
    assert client.put("/api/tokens", headers=bearer(made["token"])).status_code == 403


def test_renewing_does_not_revive_a_token_that_has_just_ended(
    app, client, token, renew, monkeypatch
):
    renewing = User.renew_token

    def end_in_between(user, *args):
        with db.engine.begin() as other:
            other.execute(sa.update(User).values(token=None, token_expiration=None))
        return renewing(user, *args)

    monkeypatch.setattr(User, "renew_token", end_in_between)
    assert renew(token).status_code == 401
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


@pytest.mark.parametrize("way", ["renewal", "log in"])
def test_renewal_and_log_in_reseal_a_token_under_the_current_key(
    client, token, client_of, config_class, way
):
    """Otherwise the token would end with the former key, however often it is renewed."""
    former = config_class.SECRET_KEY
    rotated = client_of(SECRET_KEY="a new key", SECRET_KEY_FALLBACKS=[former])
    if way == "renewal":
        assert rotated.put("/api/tokens", headers=bearer(token)).json["token"] == token
    else:
        assert rotated.post("/api/tokens", headers=basic("alice")).json["token"] == token
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    present = client_of(SECRET_KEY="a new key")
    assert present.get("/api/users/me", headers=bearer(token)).status_code == 200
