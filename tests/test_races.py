"""Concurrent requests: against a real server, and in a forced order."""

import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from app import db
from app.models import AccessToken, KnownSource, User, grant_role, locks
from app.models.errors import OutdatedError
from tests.helpers import PASSWORD, at_once, basic, bearer, until, until_it_waits

LOCK_OF_MIGRATIONS = 0x6D626C  # in migrations/env.py, which cannot be imported


@contextmanager
def meanwhile(app, call):
    """Run `call` in a thread with its own session; it must end soon after the block."""
    results = []

    def run():
        with app.app_context():
            results.append(call())
            db.session.commit()

    thread = threading.Thread(target=run)
    thread.start()
    until_it_waits(app, thread)
    yield results
    thread.join(20)
    assert not thread.is_alive()


def alice_of_session():
    return db.session.scalar(sa.select(User).where(User.username == "alice"))


def test_the_second_of_two_concurrent_log_ins_returns_the_same_token(app, alice):
    with app.app_context():
        # Both log ins load a user without a token, so log_in() must read it again.
        first = alice_of_session()
        assert first.token is None
        token = first.log_in(3600)
        with meanwhile(app, lambda: alice_of_session().log_in(3600)) as second:
            db.session.commit()
        assert second == [token]
        assert User.check_token(token) == first


def test_a_log_in_does_not_return_a_token_that_a_concurrent_log_out_ends(app, client, token):
    with app.app_context():
        User.check_token(token).revoke_token()
        with meanwhile(app, lambda: alice_of_session().log_in(3600)) as new:
            db.session.commit()
        assert new != [token]
    assert client.get("/api/users/me", headers=bearer(new[0])).status_code == 200


def test_a_log_out_does_not_end_a_token_made_by_a_later_log_in(app, client, token):
    with app.app_context():
        # Checked while it was live ...
        loser = User.check_token(token)
        with meanwhile(app, replace_token) as new:
            pass
        # ... and revoked after another token has replaced it.
        loser.revoke_token()
        db.session.commit()
    assert client.get("/api/users/me", headers=bearer(new[0])).status_code == 200
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


def replace_token():
    user = alice_of_session()
    user.revoke_token()
    return user.get_token()


@pytest.mark.parametrize("before", ["never logged in", "logged out"])
def test_a_new_password_in_code_ends_a_log_in_that_is_not_known_there(app, client, alice, before):
    with app.app_context():
        if before == "logged out":
            alice_of_session().log_in(3600)
            alice_of_session().revoke_token()
            db.session.commit()
        user = alice_of_session()
        assert (user.token, user.has_live_token) == (None, False)
        with meanwhile(app, lambda: alice_of_session().log_in(3600)) as tokens:
            pass
        user.set_password("battery staple")
        db.session.commit()
    assert client.get("/api/users/me", headers=bearer(tokens[0])).status_code == 401
    with app.app_context():
        assert (alice_of_session().token, alice_of_session().has_live_token) == (None, False)
        assert alice_of_session().token_expiration < datetime.now(UTC)  # as in the tutorial


def test_a_renewal_in_code_does_not_revive_a_token(app, client, token):
    with app.app_context():
        user = User.check_token(token)
        with meanwhile(app, lambda: User.check_token(token).revoke_token()):
            pass
        assert user.renew_token(3600, timedelta(days=30)) is False
        db.session.commit()
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


def test_a_link_sets_no_password_once_sql_has_changed_the_address(app, alice):
    def change():
        db.session.execute(sa.update(User).values(email="other@example.com"))

    with app.app_context():
        user = alice_of_session()
        with meanwhile(app, change):
            pass
        with pytest.raises(OutdatedError):
            user.reset_password("battery staple")


def test_a_log_out_in_code_does_not_hide_that_the_password_has_changed(app, alice):
    with app.app_context():
        user = alice_of_session()
        db.session.commit()
        with meanwhile(app, lambda: alice_of_session().set_password("battery staple")):
            pass
        user.revoke_token()
        with pytest.raises(OutdatedError):
            user.log_in(3600)


def test_no_access_token_is_made_after_a_new_password_that_it_has_waited_for(app, alice):
    is_read = threading.Event()

    def make():
        user = alice_of_session()
        is_read.set()
        with pytest.raises(OutdatedError):
            AccessToken.create(user, "script", "read", 3600, most=5)
        assert not db.session().in_transaction()  # which would keep other writers waiting
        return "refused"

    with app.app_context():
        alice_of_session().set_password("battery staple")
        db.session.flush()
        with meanwhile(app, make) as made:
            assert is_read.wait(20)
            assert made == []
            db.session.commit()
        assert made == ["refused"]


NEW = "battery staple"
# What takes rights of alice away: who sends it, method, path, body, status, and what ends.
# POST /api/tokens/revoke is in test_second_check.py, roles are in test_roles.py.
REQUESTS = {
    "log out": ("shared", "DELETE", "/api/tokens", None, 204, "shared"),
    "log out of a device": ("phone", "DELETE", "/api/tokens", None, 204, "phone"),
    "log out with an access token": ("script", "DELETE", "/api/tokens", None, 204, "script"),
    "end a session": ("shared", "DELETE", "/api/sessions/{phone_id}", None, 204, "phone"),
    "end all others": ("phone", "DELETE", "/api/sessions", None, 204, "shared"),
    "end those of devices": ("shared", "DELETE", "/api/sessions", None, 204, "phone"),
    "revoke": ("shared", "DELETE", "/api/access-tokens/{script_id}", None, 204, "script"),
    "rotate": ("shared", "POST", "/api/access-tokens/{script_id}/rotation", {}, 200, "script"),
    "change the password": (
        "shared",
        "PUT",
        "/api/users/{alice}/password",
        {"current_password": PASSWORD, "new_password": NEW},
        204,
        "script",
    ),
    "set a forgotten password": (
        None,
        "PUT",
        "/api/tokens/reset",
        {"token": "{link}", "new_password": NEW},
        204,
        "script",
    ),
    "leave": ("shared", "DELETE", "/api/users/{alice}", None, 204, "shared"),
    "log in at a device, which ends another": (
        None,
        "POST",
        "/api/tokens",
        {"username": "alice", "password": PASSWORD, "device": "laptop"},
        200,
        "phone",
    ),
    "deactivated by an administrator": (
        "root",
        "PUT",
        "/api/admin/users/{alice}/deactivation",
        None,
        204,
        "phone",
    ),
    "logged out by an administrator": (
        "root",
        "DELETE",
        "/api/admin/users/{alice}/sessions",
        None,
        204,
        "phone",
    ),
}
COMMANDS = {  # and what ends
    "revoke all": (["tokens", "revoke", "alice"], "phone"),
    "revoke by name": (["tokens", "revoke", "alice", "--name", "script"], "script"),
    "revoke by device": (["tokens", "revoke", "alice", "--device", "phone"], "phone"),
    "revoke everybody's": (["tokens", "revoke", "--all"], "script"),
    "deactivate": (["users", "deactivate", "alice"], "shared"),
    "set the password": (["users", "password", "alice"], "shared"),
}


@pytest.fixture
def named(app, client, alice, token, register, log_in, mailbox):
    """What `REQUESTS` name: the texts of tokens, and ids."""
    app.config["SESSIONS_PER_USER"] = 1
    root = register("root")
    with app.app_context():
        grant_role(db.session.get(User, root), "admin")
        db.session.commit()
    phone = client.post("/api/tokens", json={"device": "phone"}, headers=basic("alice")).json
    body = {"name": "script", "scope": "read write"}
    script = client.post("/api/access-tokens", json=body, headers=basic("alice")).json
    sessions = client.get("/api/sessions", headers=bearer(token)).json["items"]
    (phone_id,) = [session["id"] for session in sessions if session["device"] == "phone"]
    mailbox.send()
    client.post("/api/tokens/reset", json={"login": "alice"})
    texts = {"phone": phone["token"], "script": script["token"], "link": mailbox.token()}
    ids = {"alice": alice, "phone_id": phone_id, "script_id": script["id"]}
    return {"shared": token, "root": log_in("root")} | texts | ids


@pytest.mark.parametrize("way", [*REQUESTS, *COMMANDS])
def test_what_takes_rights_away_waits_for_a_write_in_flight(app, client, alice, named, way):
    """On SQLite, whose writers all wait for each other, only that it then takes them away."""

    def command():
        args, _ = COMMANDS[way]
        return app.test_cli_runner().invoke(args=args, input=f"{NEW}\n{NEW}\n").exit_code

    def request():
        sender, method, path, body, status, _ = REQUESTS[way]
        if body and "token" in body:
            body = body | {"token": named["link"]}
        headers = bearer(named[sender]) if sender else None
        response = app.test_client().open(
            path.format_map(named), method=method, json=body, headers=headers
        )
        return response.status_code - status

    with app.app_context():
        locks.write_as(alice)  # a request of alice has begun to write
        with meanwhile(app, command if way in COMMANDS else request) as taken:
            has_waited = taken == []
            db.session.rollback()
    assert has_waited
    assert taken == [0]
    ended = (COMMANDS | REQUESTS)[way][-1]
    assert client.get("/api/users/me", headers=bearer(named[ended])).status_code == 401


def test_no_user_has_the_lock_of_the_migrations(app):
    if app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"):
        pytest.skip("SQLite has one lock")
    with app.app_context():
        db.session.execute(sa.text(f"SELECT pg_advisory_xact_lock({LOCK_OF_MIGRATIONS})"))
        with meanwhile(app, lambda: locks.write_as(LOCK_OF_MIGRATIONS)) as done:
            until(lambda: done == [None])


def test_a_locked_user_gets_rows_in_other_tables_meanwhile(app, alice):
    """A foreign key to the user does not wait for a change that keeps the id."""
    if app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time")
    with app.app_context():
        alice_of_session().lock()
        with meanwhile(app, lambda: KnownSource.note(alice, "192.0.2.1")) as is_new:
            until(lambda: is_new == [True])


def test_32_log_ins_at_once_all_get_a_token_that_works(server, register):
    for name in ("alice", "bob"):
        register(name)
        answers = at_once(
            32, lambda _, name=name: server.request("POST", "/api/tokens", headers=basic(name))
        )
        assert [answer.status for answer in answers] == [200] * 32
        tokens = [answer.json["token"] for answer in answers]
        checks = [server.request("GET", "/api/users/me", headers=bearer(token)) for token in tokens]
        assert [check.status for check in checks] == [200] * 32


def test_log_ins_and_log_outs_at_once_never_fail(server, register):
    register("alice")

    def log_in_and_out(_):
        for _ in range(5):
            answer = server.request("POST", "/api/tokens", headers=basic("alice"))
            assert answer.status == 200
            token = answer.json["token"]
            # Another device may have logged the shared token out meanwhile.
            assert server.request("DELETE", "/api/tokens", headers=bearer(token)).status in (
                204,
                401,
            )

    at_once(8, log_in_and_out)


@pytest.mark.parametrize("field", ["username", "email"])
def test_only_one_of_many_concurrent_registrations_of_a_name_succeeds(server, field):
    def register(number):
        body = {"username": f"u{number}", "email": f"u{number}@example.com", "password": PASSWORD}
        body[field] = {"username": "alice", "email": "alice@example.com"}[field]
        if number % 2:
            body[field] = body[field].upper()
        return server.request("POST", "/api/users", json_body=body)

    answers = at_once(16, register)
    assert sorted(answer.status for answer in answers) == [201] + [400] * 15
    noun = {"username": "username", "email": "email address"}[field]
    messages = {answer.json["message"] for answer in answers if answer.status == 400}
    assert messages == {f"please use a different {noun}"}
