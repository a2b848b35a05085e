"""A forgotten password: a link is mailed, and sets a new one."""

import base64
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from itsdangerous import URLSafeTimedSerializer

from app import db
from app.models import OutgoingMail, User
from app.security import passwords
from tests.helpers import PASSWORD, at_once, basic, bearer, later
from tests.mails import link_of, text_of, token_of

NEW = "battery staple"
EXPIRED = "the link has expired; ask for a new one"
INVALID = "the link is not valid; it may have been used already"


@pytest.fixture
def forget(client):
    """Return a function that asks for a link."""

    def forget(login, **more):
        return client.post("/api/tokens/reset", json={"login": login}, **more)

    return forget


@pytest.fixture
def reset(client):
    """Return a function that uses the token of a link."""

    def reset(token, password=NEW):
        body = {"token": token, "new_password": password}
        return client.put("/api/tokens/reset", json=body)

    return reset


@pytest.fixture
def link_token(alice, mailbox, forget):
    """The token of a link for Alice."""
    mailbox.send()
    forget("alice")
    return mailbox.token()


def assert_refused(response, message):
    assert (response.status_code, response.json["message"]) == (400, message)


@pytest.mark.parametrize("login", ["alice", "ALICE", "alice@example.com", "Alice@EXAMPLE.com"])
def test_a_link_sets_a_new_password(client, alice, mailbox, forget, reset, login, events):
    mailbox.send()
    answer = forget(login)
    assert (answer.status_code, answer.json) == (202, {})
    (mail,) = mailbox.send()
    assert mail["To"] == "alice@example.com"
    assert mail["Subject"] == "Choose a new password for Microblog API"
    assert link_of(mail).startswith("http://127.0.0.1:5000/reset#token=")
    response = reset(token_of(mail))
    assert (response.status_code, response.data) == (204, b"")
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 401
    assert client.post("/api/tokens", headers=basic("alice", NEW)).status_code == 200
    requested, done = events()[:2]
    assert (requested["event"], requested["user_id"]) == ("password_reset_requested", None)
    assert (done["event"], done["user_id"]) == ("password_reset", alice)


def test_clients_of_microblog_api_send_an_email(client, alice, mailbox):
    mailbox.send()
    body = {"email": "alice@example.com"}
    assert client.post("/api/tokens/reset", json=body).status_code == 202
    assert mailbox.token()


def test_a_reset_ends_every_log_in_and_token_and_logs_nobody_in(client, link_token, reset, token):
    headers = basic("alice")
    phone = client.post("/api/tokens", json={"device": "phone"}, headers=headers).json["token"]
    body = {"name": "script", "scope": "read"}
    script = client.post("/api/access-tokens", json=body, headers=headers).json["token"]
    assert reset(link_token).data == b""
    for text in (token, phone, script):
        assert client.get("/api/users/me", headers=bearer(text)).status_code == 401


def test_the_answer_for_an_unknown_login_is_the_same_and_nothing_is_mailed(
    client, alice, bob, leave, mailbox, forget
):
    mailbox.send()
    leave(bob, basic("bob"))
    known = forget("alice")
    for login in ("nobody", "nobody@example.com", "bob", "x" * 254, "a b\n\u2028", "alice\\"):
        unknown = forget(login)
        assert (unknown.status_code, unknown.data) == (known.status_code, known.data)
        assert list(unknown.headers.keys()) == list(known.headers.keys())
    assert [mail["To"] for mail in mailbox.send()] == ["alice@example.com"]


def test_a_request_for_a_link_takes_the_same_statements_for_everybody(alice, forget, statements):
    forget("alice")
    known = list(statements)
    statements.clear()
    forget("nobody")
    assert statements == known
    assert len(known) == 1  # the mail is put into the outbox; only its sender looks for the user


@pytest.mark.parametrize("body", [{}, {"login": ""}, {"login": "x" * 255}, {"login": 1}, []])
def test_a_bad_login_is_refused(client, body):
    response = client.post("/api/tokens/reset", json=body)
    assert response.status_code == 400
    if body != []:
        assert list(response.json["errors"]) == ["login"]


def test_a_line_break_after_the_token_of_a_link_is_ignored(client, link_token, reset):
    assert reset(f"{link_token}\n").status_code == 204


def test_a_used_link_is_refused(link_token, reset):
    assert reset(link_token).status_code == 204
    assert_refused(reset(link_token, "another one"), INVALID)


def test_of_requests_with_one_link_at_once_one_succeeds(app, link_token):
    def call(number):
        body = {"token": link_token, "new_password": f"{NEW} {number}"}
        return app.test_client().put("/api/tokens/reset", json=body)

    answers = at_once(4, call)
    statuses = [answer.status_code for answer in answers if answer.status_code != 503]
    assert statuses.count(204) == 1
    for answer in answers:
        if answer.status_code == 400:
            assert_refused(answer, INVALID)


def test_a_link_is_refused_after_a_change_of_the_password(client, alice, link_token, reset):
    body = {"current_password": PASSWORD, "new_password": "another one"}
    path = f"/api/users/{alice}/password"
    assert client.put(path, json=body, headers=basic("alice")).status_code == 204
    assert_refused(reset(link_token), INVALID)


def test_a_link_is_refused_after_a_change_of_the_address(client, alice, link_token, reset):
    body = {"email": "liddell@example.com"}
    assert client.put(f"/api/users/{alice}", json=body, headers=basic("alice")).status_code == 200
    assert_refused(reset(link_token), INVALID)


def test_a_link_is_refused_whose_address_is_changed_while_the_password_is_hashed(
    app, client, alice, link_token, reset, monkeypatch
):
    hash_password = passwords.hash_password

    def change_first(password):
        with app.app_context():
            values = {"email": "new@example.com", "email_changed_at": datetime.now(UTC)}
            db.session.execute(sa.update(User).where(User.id == alice).values(values))
            db.session.commit()
        return hash_password(password)

    monkeypatch.setattr(passwords, "hash_password", change_first)
    assert reset(link_token).status_code == 400
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 200


def test_a_link_of_a_user_who_has_left_is_refused(alice, link_token, leave, reset):
    leave(alice, basic("alice"))
    assert_refused(reset(link_token), INVALID)


def test_an_expired_link_is_told_from_an_invalid_one(link_token, reset):
    with later(seconds=3595):
        assert_refused(reset(link_token, "short"), "new_password must be 8 to 256 characters long")
    with later(seconds=3605):
        assert_refused(reset(link_token), EXPIRED)
        assert_refused(reset(link_token[:-2] + "AA"), INVALID)


def test_a_setting_says_how_long_a_link_is_good(app, alice, mailbox, forget, reset):
    app.config["RESET_LINK_SECONDS"] = 7200
    mailbox.send()
    forget("alice")
    (mail,) = mailbox.send()
    assert "within 2 hours" in text_of(mail)
    with later(seconds=7100):
        assert reset(token_of(mail)).status_code == 204
    app.config["RESET_LINK_SECONDS"] = 600
    forget("alice")
    (mail,) = mailbox.send()
    assert "within 10 minutes" in text_of(mail)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é" * 100, "\ud83d\ude00", "." * 1000])
def test_any_other_text_is_refused(reset, token):
    assert_refused(reset(token), INVALID)


def test_a_link_that_was_signed_for_another_purpose_is_refused(client, alice, mailbox, reset):
    verification = mailbox.token()
    assert_refused(reset(verification), INVALID)
    body = {"token": verification}
    assert client.post("/api/email-verifications", json=body).status_code == 204


def test_a_link_that_was_signed_with_another_key_is_refused(app, link_token, reset):
    payload = base64.urlsafe_b64decode(link_token.partition(".")[0] + "==")
    forged = URLSafeTimedSerializer("another key", salt="microblog-api mail reset").dumps(
        payload.decode()
    )
    assert_refused(reset(forged), INVALID)
    app.config["SECRET_KEY"] = "a new key"
    assert_refused(reset(link_token), INVALID)


def test_links_outlive_a_rotation_of_the_key(app, link_token, reset):
    app.config["SECRET_KEY_FALLBACKS"] = [app.config["SECRET_KEY"]]
    app.config["SECRET_KEY"] = "a new key"
    assert reset(link_token).status_code == 204


@pytest.mark.parametrize("password", ["short", "password123", "Alice1234"])
def test_a_weak_password_is_refused_and_the_link_stays_good(client, link_token, reset, password):
    response = reset(link_token, password)
    assert response.status_code == 400
    assert list(response.json["errors"]) == ["new_password"]
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 200
    assert reset(link_token).status_code == 204


def test_a_weak_password_tells_nothing_without_a_link(reset):
    assert_refused(reset("x", "short"), INVALID)


def test_who_has_changed_the_address_can_use_a_link_to_the_new_one(
    client, alice, mailbox, forget, reset
):
    body = {"email": "new@example.com"}
    path = f"/api/users/{alice}"
    assert client.put(path, json=body, headers=basic("alice")).status_code == 200
    mailbox.send()
    forget("new@example.com")
    assert reset(mailbox.token()).status_code == 204


def test_who_uses_a_link_has_verified_the_address(client, link_token, reset):
    assert reset(link_token).status_code == 204
    me = client.get("/api/users/me", headers=basic("alice", NEW)).json
    assert me["email_verified"] is True


def test_a_reset_is_told_by_mail_and_its_source_is_known(client, link_token, mailbox, reset):
    reset(link_token)
    client.post("/api/tokens", headers=basic("alice", NEW))
    assert subjects(mailbox) == ["Your password for Microblog API was changed"]
    elsewhere = {"REMOTE_ADDR": "192.0.2.1"}
    client.post("/api/tokens", headers=basic("alice", NEW), environ_base=elsewhere)
    # As this one source is known, another one is new.
    assert subjects(mailbox) == ["A log in to Microblog API from a new address"]


def subjects(mailbox):
    return [mail["Subject"] for mail in mailbox.send()]


def test_a_source_is_limited(app, forget):
    app.config["MAIL_LIMIT_PER_SOURCE"] = "2 per hour"
    assert forget("alice").status_code == forget("bob").status_code == 202
    refused = forget("carol")
    assert refused.status_code == 429
    assert refused.json["message"].startswith("too many mails")
    assert int(refused.headers["Retry-After"]) > 3590
    assert forget("dave", environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 202


def test_a_user_gets_few_links_whatever_name_they_are_asked_for(
    app, client, alice, mailbox, forget, caplog
):
    app.config["MAIL_LIMIT_PER_RECIPIENT"] = "3 per hour"
    mailbox.send()
    # Nobody uses up the limit of another with names that find nobody: U+212A is a k for Python.
    for login in ["\u212aate", "alicE@example.com", "bob@example.com", "alice", "ALICE"] * 3:
        assert forget(login).status_code == 202  # as always
    assert [mail["To"] for mail in mailbox.send()] == ["alice@example.com"] * 3
    assert "its recipient has had too many" in caplog.text
    path = f"/api/users/{alice}/email-verification"
    assert client.post(path, headers=basic("alice")).status_code == 202
    assert len(mailbox.send()) == 1  # another kind is counted apart


def test_nothing_is_mailed_where_the_transaction_is_rolled_back(app, client, alice, bob, mailbox):
    mailbox.send()
    # The notice is written before the unique index refuses the address.
    body = {"email": "BOB@example.com"}
    response = client.put(f"/api/users/{alice}", json=body, headers=basic("alice"))
    assert response.json["errors"] == {"email": ["please use a different email address"]}
    with app.app_context():
        assert db.session.query(OutgoingMail).count() == 0
    assert mailbox.send() == []
