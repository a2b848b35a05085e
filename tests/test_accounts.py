"""Changing the password and leaving, and the effect of both on tokens."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine
from werkzeug.security import generate_password_hash

from app import db
from app.models import DeviceSession, OutdatedError, User, activate, deactivate
from tests.helpers import PASSWORD, Server, at_once, basic, bearer

NEW = "battery staple"


@pytest.fixture
def change_password(client):
    """Return a function that changes a user's password and returns the response."""

    def change_password(id, headers, current=PASSWORD, new=NEW):
        body = {"current_password": current, "new_password": new}
        return client.put(f"/api/users/{id}/password", json=body, headers=headers)

    return change_password


# -- The password ----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["Bearer", "Basic with the token", "password"])
def test_a_new_password_ends_every_token_and_opens_the_account(
    client, change_password, alice, token, way
):
    headers = {
        "Bearer": bearer(token),
        "Basic with the token": basic(token, ""),
        "password": basic("alice"),
    }[way]
    response = change_password(alice, headers)
    assert (response.status_code, response.data) == (204, b"")
    for old in (bearer(token), basic(token, ""), basic("alice")):
        assert client.get("/api/users/me", headers=old).status_code == 401
    assert client.get("/api/users/me", headers=basic("alice", NEW)).status_code == 200
    new = client.post("/api/tokens", headers=basic("alice", NEW)).json["token"]
    assert new != token


def test_a_new_password_is_not_the_own_name_where_the_address_is_another(change_password, register):
    id = register("carol", email="someone@example.com")
    refused = change_password(id, basic("carol"), new="carol1234")
    assert refused.json["errors"]["new_password"]
    assert refused.status_code == 400


def test_the_same_password_again_ends_every_token_too(client, change_password, alice, token):
    assert change_password(alice, basic("alice"), new=PASSWORD).status_code == 204
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200


@pytest.mark.parametrize("way", ["Bearer", "password"])
def test_a_wrong_current_password_is_403_and_changes_nothing(
    client, change_password, alice, token, way
):
    headers = {"Bearer": bearer(token), "password": basic("alice")}[way]
    response = change_password(alice, headers, current="not the password")
    assert response.status_code == 403
    assert response.json == {"error": "Forbidden", "message": "the current password is wrong"}
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200


def test_the_current_password_cannot_be_guessed_with_a_stolen_token(
    client, change_password, alice, token
):
    for _ in range(20):
        assert change_password(alice, bearer(token), current="not my password").status_code == 403
    response = change_password(alice, bearer(token))
    assert response.status_code == 429
    assert "Retry-After" in response.headers
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


def test_a_user_can_change_only_their_own_password(client, change_password, alice, bob, token):
    assert change_password(bob, bearer(token)).status_code == 403
    assert change_password(bob, {}).status_code == 401
    # The permission is checked before the body.
    response = client.put(f"/api/users/{bob}/password", json={}, headers=bearer(token))
    assert response.status_code == 403
    assert client.get("/api/users/me", headers=basic("bob")).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "current_password"),
        ({"current_password": PASSWORD}, "new_password"),
        ({"current_password": PASSWORD, "new_password": 7}, "new_password"),
        ({"current_password": None, "new_password": NEW}, "current_password"),
        ({"current_password": PASSWORD, "new_password": "short"}, "new_password"),
        ({"current_password": PASSWORD, "new_password": "password1"}, "new_password"),
        ({"current_password": PASSWORD, "new_password": "alice@example.com"}, "new_password"),
        ({"current_password": PASSWORD, "new_password": "alice1234"}, "new_password"),
    ],
)
def test_an_invalid_body_is_refused_before_the_password_is_checked(
    client, alice, token, monkeypatch, body, field
):
    monkeypatch.setattr("app.security.passwords.find_match", None)
    response = client.put(f"/api/users/{alice}/password", json=body, headers=bearer(token))
    assert response.status_code == 400
    assert field in response.json["errors"]


def run_meanwhile(app, call):
    """Run `call` in another session, and commit."""

    def run():
        with app.app_context():
            call()
            db.session.commit()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)


def alice_of_session():
    return db.session.scalar(sa.select(User).where(User.username == "alice"))


@pytest.mark.parametrize("hashed", ["anew", "as before"])
def test_a_log_in_is_refused_if_the_password_changes_meanwhile(
    app, client, alice, monkeypatch, hashed
):
    if hashed == "anew":
        with app.app_context():
            alice_of_session().password_hash = generate_password_hash(PASSWORD, "pbkdf2:sha256:1")
            db.session.commit()
    name = {"anew": "renew_password_hash", "as before": "log_in"}[hashed]
    verb = getattr(User, name)

    def change_in_between(user, argument):
        run_meanwhile(app, lambda: alice_of_session().set_password(NEW))
        return verb(user, argument)

    monkeypatch.setattr(User, name, change_in_between)
    response = client.post("/api/tokens", headers=basic("alice"))
    assert (response.status_code, response.json) == (401, {"error": "Unauthorized"})
    assert response.headers["WWW-Authenticate"].startswith("Basic ")
    with app.app_context():
        assert alice_of_session().token is None
        assert alice_of_session().check_password(NEW)


def test_the_later_of_two_concurrent_password_changes_is_refused(
    app, change_password, alice, token, monkeypatch
):
    change = User.change_password

    def change_in_between(user, password):
        run_meanwhile(app, lambda: alice_of_session().set_password("first of all"))
        change(user, password)

    monkeypatch.setattr(User, "change_password", change_in_between)
    assert change_password(alice, bearer(token)).status_code == 401
    with app.app_context():
        assert alice_of_session().check_password("first of all")


def test_two_concurrent_log_ins_that_replace_an_old_hash_both_succeed(
    app, client, alice, monkeypatch
):
    with app.app_context():
        alice_of_session().password_hash = generate_password_hash(PASSWORD, "pbkdf2:sha256:1")
        db.session.commit()
    renew = User.renew_password_hash

    def renew_in_between(user, password):
        run_meanwhile(app, lambda: renew(alice_of_session(), password))
        renew(user, password)

    monkeypatch.setattr(User, "renew_password_hash", renew_in_between)
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 200
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200


def test_set_password_called_as_in_the_tutorial_ends_the_token(app, client, alice, token):
    with app.app_context():
        alice_of_session().set_password(NEW)
        db.session.commit()
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert client.get("/api/users/me", headers=basic("alice", NEW)).status_code == 200


def test_set_password_ends_a_token_made_after_the_user_was_loaded(app, client, alice, log_in):
    with app.app_context():
        user = alice_of_session()
        assert user.token is None
        (token,) = at_once(1, lambda _: log_in("alice"))  # a thread has a session of its own
        user.set_password(NEW)
        db.session.commit()
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


def test_set_password_takes_back_an_address_asked_for_after_the_user_was_loaded(
    app, client, verified
):
    thief = {"email": "thief@example.com"}
    with app.app_context():
        user = alice_of_session()
        assert user.new_email is None
        db.session.commit()
        # In a thread, which has a session of its own.
        path, headers = f"/api/users/{verified}", basic("alice")
        (response,) = at_once(1, lambda _: client.put(path, json=thief, headers=headers))
        assert response.json["new_email"] == "thief@example.com"
        user.set_password(NEW)
        db.session.commit()
    me = client.get("/api/users/me", headers=basic("alice", NEW)).json
    assert (me["email"], me.get("new_email")) == ("alice@example.com", None)


# -- Deactivation ----------------------------------------------------------------------


def test_a_deactivated_user_is_refused_like_an_unknown_one(client, leave, alice, token):
    leave(alice, bearer(token))
    unknown = client.post("/api/tokens", headers=basic("nobody"))
    for login in ("alice", "alice@example.com"):
        response = client.post("/api/tokens", headers=basic(login))
        assert (response.status_code, response.data) == (401, unknown.data)
        assert response.headers["WWW-Authenticate"] == unknown.headers["WWW-Authenticate"]
    for headers in (bearer(token), basic(token, ""), basic("alice")):
        assert client.get("/api/users/me", headers=headers).status_code == 401


def test_a_user_can_deactivate_their_account_with_a_password(client, leave, alice):
    leave(alice, basic("alice"))
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 401


def test_a_user_cannot_deactivate_another_user(client, alice, bob, token):
    assert client.delete(f"/api/users/{bob}", headers=bearer(token)).status_code == 403
    assert client.delete(f"/api/users/{bob}").status_code == 401
    assert client.get(f"/api/users/{bob}", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize("field", ["username", "email"])
def test_the_name_and_email_address_of_a_deactivated_user_stay_taken(
    client, leave, alice, token, field
):
    leave(alice, bearer(token))
    body = {"username": "other", "email": "other@example.com", "password": PASSWORD}
    body[field] = {"username": "Alice", "email": "ALICE@example.com"}[field]
    response = client.post("/api/users", json=body)
    assert response.status_code == 400
    assert list(response.json["errors"]) == [field]


def test_who_has_left_is_gone_from_the_users(client, leave, alice, bob, token):
    leave(alice, bearer(token))
    page = client.get("/api/users", headers=basic("bob")).json
    assert [user["id"] for user in page["items"]] == [bob]
    assert page["_meta"]["total_items"] == 1
    assert client.get(f"/api/users/{alice}", headers=basic("bob")).status_code == 404


def test_activation_restores_everything_except_the_token(app, client, leave, alice, bob, token):
    before = client.get("/api/users", headers=basic("bob")).json
    leave(alice, bearer(token))
    runner = app.test_cli_runner()
    assert runner.invoke(args=["users", "activate", "alice"]).exit_code == 0
    assert client.get("/api/users", headers=basic("bob")).json == before
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200


def test_a_log_in_is_refused_if_the_user_is_deactivated_meanwhile(app, client, alice, monkeypatch):
    log_in = User.log_in

    def leave_in_between(user, expires_in):
        arguments = ["users", "deactivate", "alice"]
        run_meanwhile(app, lambda: app.test_cli_runner().invoke(args=arguments))
        return log_in(user, expires_in)

    monkeypatch.setattr(User, "log_in", leave_in_between)
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 401


def test_an_object_shows_its_deactivation_and_activation_at_once(app, alice):
    with app.app_context():
        user = alice_of_session()
        deactivate(user)
        assert user.deactivated_at is not None
        activate(user)
        assert user.deactivated_at is None


def test_no_token_opens_for_a_user_whom_sql_has_deactivated(app, client, alice, token):
    """Their rows are still there."""
    body = {"name": "script", "scope": "read"}
    made = client.post("/api/access-tokens", json=body, headers=basic("alice")).json["token"]
    phone = client.post("/api/tokens", json={"device": "phone"}, headers=basic("alice"))
    with app.app_context():
        db.session.execute(sa.update(User).values(deactivated_at=datetime.now(UTC)))
        db.session.commit()
    for text in (token, made, phone.json["token"]):
        assert client.get("/api/users/me", headers=bearer(text)).status_code == 401
    with app.app_context():
        assert User.check_token(token) is None


def test_log_in_raises_for_a_deactivated_user(app, alice):
    with app.app_context():
        user = alice_of_session()
        user.deactivated_at = datetime.now(UTC)
        db.session.commit()
        with pytest.raises(OutdatedError):
            user.log_in(3600)
        assert not db.session().in_transaction()  # which would keep other writers waiting


def test_a_log_in_of_a_device_is_noted(client, alice):
    with time_machine.travel("2031-05-06T07:08:09+00:00", tick=False):
        answer = client.post("/api/tokens", json={"device": "phone"}, headers=basic("alice"))
        seen = client.get("/api/users/me", headers=bearer(answer.json["token"])).json["last_seen"]
    assert seen == "2031-05-06T07:08:09+00:00"


def test_a_log_in_of_a_device_is_refused_for_a_deactivated_user(app, alice):
    with app.app_context():
        user = alice_of_session()
        user.deactivated_at = datetime.now(UTC)
        db.session.commit()
        with pytest.raises(OutdatedError):
            DeviceSession.start(user, "tablet", 3600, 50)


def test_a_password_change_or_deactivation_takes_effect_at_once_in_every_process(
    app, config_class, server, register
):
    ids = {name: register(name) for name in ("alice", "bob")}
    settings = {**server.environment, "PORT": "0", "WEB_CONCURRENCY": "2"}
    with Server(**settings) as other:
        for name, method, path, body in [
            (
                "alice",
                "PUT",
                f"/api/users/{ids['alice']}/password",
                {"current_password": PASSWORD, "new_password": NEW},
            ),
            ("bob", "DELETE", f"/api/users/{ids['bob']}", None),
        ]:
            token = server.request("POST", "/api/tokens", headers=basic(name)).json["token"]
            for _ in range(4):
                me = other.request("GET", "/api/users/me", headers=bearer(token))
                assert me.status == 200
            done = server.request(method, path, headers=bearer(token), json_body=body)
            assert done.status == 204
            for _ in range(4):
                for headers in (bearer(token), basic(token, ""), basic(name)):
                    assert other.request("GET", "/api/users/me", headers=headers).status == 401


def test_a_clock_set_back_does_not_revive_a_token_ended_by_deactivation(
    app, client, leave, alice, token
):
    leave(alice, bearer(token))
    app.test_cli_runner().invoke(args=["users", "activate", "alice"])
    with time_machine.travel(datetime.now(UTC) - timedelta(hours=2)):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
