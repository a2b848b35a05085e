"""Verified e-mail addresses: registering, changing, and what is closed until then."""

import threading
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from app import db
from app.api import users
from app.models import User
from tests.helpers import PASSWORD, at_once, basic, bearer, json_of, later
from tests.mails import link_of, text_of, token_of

EXPIRED = "the link has expired; ask for a new one"
INVALID = "the link is not valid; it may have been used already"
CLOSED = "verify your e-mail address first: open the link that was mailed to you"
NEW = "liddell@example.com"


@pytest.fixture
def verify(client):
    """Return a function that uses the token of a link."""
    return lambda token: client.post("/api/email-verifications", json={"token": token})


@pytest.fixture
def me(client):
    """Return a function that reads Alice."""
    return lambda: client.get("/api/users/me", headers=basic("alice")).json


@pytest.fixture
def change(client, alice):
    """Return a function that changes Alice's address; returns the response."""

    def change(address, **more):
        body = {"email": address}
        return client.put(f"/api/users/{alice}", json=body, headers=basic("alice"), **more)

    return change


@pytest.fixture
def with_mail_server(app):
    app.config["MAIL_SERVER"] = "mail.example.com"


def assert_refused(response, message):
    assert (response.status_code, response.json["message"]) == (400, message)


def test_registering_sends_a_link_that_verifies_the_address(alice, mailbox, verify, me, events):
    assert me()["email_verified"] is False
    (mail,) = mailbox.send()
    assert mail["To"] == "alice@example.com"
    assert link_of(mail).startswith("http://127.0.0.1:5000/verify#token=")
    assert "within 24 hours" in text_of(mail)
    response = verify(token_of(mail))
    assert (response.status_code, response.data) == (204, b"")
    assert me()["email_verified"] is True
    assert [line["event"] for line in events() if line["user_id"] == alice] == [
        *("log_in", "email_verified", "log_in")
    ]


def test_only_the_user_sees_whether_the_address_is_verified(client, verified, register, change):
    register("bob")
    change(NEW)
    own = client.get(f"/api/users/{verified}", headers=basic("alice")).json
    assert (own["email_verified"], own["new_email"]) == (True, NEW)
    shown = client.get(f"/api/users/{verified}", headers=basic("bob")).json
    assert not {"email", "email_verified", "new_email"} & set(shown)


def test_a_secret_key_that_is_no_utf_8_signs_links(app, alice, mailbox, verify):
    app.config["SECRET_KEY"] = b"\xff\xfe is no UTF-8".decode(errors="surrogateescape")
    assert verify(mailbox.token()).status_code == 204


def test_a_used_link_is_refused(mailbox, alice, verify):
    token = mailbox.token()
    assert verify(token).status_code == 204
    assert_refused(verify(token), INVALID)


def test_an_expired_link_is_told_from_an_invalid_one(mailbox, alice, verify):
    token = mailbox.token()
    with later(hours=24, seconds=5):
        assert_refused(verify(token), EXPIRED)
        assert_refused(verify(token[:-2]), INVALID)
    with later(hours=23):
        assert verify(token).status_code == 204


def test_a_verified_address_stays_until_the_new_one_is_confirmed(
    client, verified, mailbox, change, verify, me
):
    response = change(NEW)
    assert response.status_code == 200
    assert response.json["email"] == "alice@example.com"
    assert (response.json["email_verified"], response.json["new_email"]) == (True, NEW)
    assert client.post("/api/tokens", headers=basic(NEW)).status_code == 401
    told, asked = mailbox.send()
    assert (told["To"], asked["To"]) == ("alice@example.com", NEW)
    assert told["Subject"] == "Your e-mail address for Microblog API is changing"
    assert f"to {NEW}" in text_of(told).replace("\n", " ")
    assert "Until then, this one stays" in text_of(told).replace("\n", " ")
    assert verify(token_of(asked)).status_code == 204
    shown = me()
    assert (shown["email"], shown["email_verified"]) == (NEW, True)
    assert "new_email" not in shown
    assert client.post("/api/tokens", headers=basic(NEW)).status_code == 200
    assert client.post("/api/tokens", headers=basic("alice@example.com")).status_code == 401


def test_with_a_mail_server_an_address_always_stays_until_then(with_mail_server, alice, change, me):
    assert change(NEW).json["email"] == "alice@example.com"
    assert (me()["email"], me()["email_verified"]) == ("alice@example.com", False)


def test_without_a_mail_server_an_address_that_never_was_verified_is_replaced_at_once(
    alice, mailbox, change, verify, me
):
    first = mailbox.token()
    response = change(NEW)
    assert (response.json["email"], response.json["email_verified"]) == (NEW, False)
    assert "new_email" not in response.json
    assert_refused(verify(first), INVALID)
    told, asked = mailbox.send()
    assert (told["To"], asked["To"]) == ("alice@example.com", NEW)
    assert "It has changed" in text_of(told)
    assert verify(token_of(asked)).status_code == 204
    assert me()["email_verified"] is True


def test_the_change_of_an_address_is_recorded_when_it_counts(
    verified, mailbox, change, verify, events
):
    change(NEW)
    assert "email_changed" not in [line["event"] for line in events()]
    verify(token_of(mailbox.send()[1]))
    assert [line["event"] for line in events()][-2:] == ["email_changed", "email_verified"]


def test_a_link_for_a_former_address_is_refused(verified, mailbox, change, verify, me):
    change("typo@example.com")
    former = token_of(mailbox.send()[1])
    change(NEW)
    assert_refused(verify(former), INVALID)
    assert verify(token_of(mailbox.send()[1])).status_code == 204
    assert me()["email"] == NEW


def test_a_new_password_stops_the_change_of_an_address(client, verified, mailbox, change, verify):
    change(NEW)
    token = token_of(mailbox.send()[1])
    body = {"current_password": PASSWORD, "new_password": "battery staple"}
    path = f"/api/users/{verified}/password"
    assert client.put(path, json=body, headers=basic("alice")).status_code == 204
    assert_refused(verify(token), INVALID)
    shown = client.get("/api/users/me", headers=basic("alice", "battery staple")).json
    assert "new_email" not in shown


def test_other_changes_leave_a_pending_address_alone(client, verified, change, mailbox):
    change(NEW)
    body = {"about_me": "Curious"}
    response = client.put(f"/api/users/{verified}", json=body, headers=basic("alice"))
    assert response.json["new_email"] == NEW
    assert len(mailbox.send()) == 2  # of the change alone


def test_the_wish_for_another_address_can_be_taken_back(verified, mailbox, change, verify):
    change(NEW)
    token = token_of(mailbox.send()[1])
    response = change("alice@example.com")
    assert response.status_code == 200
    assert "new_email" not in response.json
    assert_refused(verify(token), INVALID)
    assert mailbox.send() == []


def test_a_link_is_not_sent_to_an_address_that_is_not_wanted_any_more(verified, mailbox, change):
    for number in range(3):
        change(f"victim+{number}@example.net")
    change(NEW)
    asked = [mail["To"] for mail in mailbox.send() if mail["Subject"].startswith("Confirm")]
    assert asked == [NEW]


def test_of_two_requests_with_one_link_at_once_one_succeeds(app, alice, mailbox):
    body = {"token": mailbox.token()}
    answers = at_once(
        4, lambda _: app.test_client().post("/api/email-verifications", json=body).status_code
    )
    assert sorted(answers) == [204, 400, 400, 400]


def test_a_former_release_that_changes_the_address_leaves_it_unverified(app, verified, me):
    with app.app_context():  # it does not know the new columns
        db.session.execute(sa.text("UPDATE \"user\" SET email = 'other@example.com'"))
        db.session.commit()
    assert (me()["email"], me()["email_verified"]) == ("other@example.com", False)


def test_a_former_release_that_changes_the_password_stops_the_change_of_an_address(
    app, verified, mailbox, change, verify
):
    change(NEW)
    token = token_of(mailbox.send()[1])
    with app.app_context():
        changed = sa.update(User).values(password_changed_at=datetime.now(UTC))
        db.session.execute(changed)
        db.session.commit()
    assert_refused(verify(token), INVALID)


def test_a_link_of_a_clock_that_is_ahead_is_good(alice, mailbox, verify):
    with later(seconds=5):
        token = mailbox.token()
    assert verify(token).status_code == 204


@pytest.fixture
def confirm_meanwhile(app, monkeypatch):
    """Return a function that has a link used after the first check of the next change."""

    def confirm_meanwhile(token):
        statuses = []
        check_again = users.check_again

        def confirm():
            body = {"token": token}
            answer = app.test_client().post("/api/email-verifications", json=body)
            statuses.append(answer.status_code)

        def confirm_first():
            if not statuses:
                thread = threading.Thread(target=confirm)  # has a session of its own
                thread.start()
                thread.join(20)
            check_again()

        monkeypatch.setattr(users, "check_again", confirm_first)
        return statuses

    return confirm_meanwhile


def test_an_address_that_is_confirmed_while_another_is_asked_for_stays(
    alice, mailbox, change, confirm_meanwhile
):
    statuses = confirm_meanwhile(mailbox.token())
    shown = change(NEW).json
    assert statuses == [204]
    assert (shown["email"], shown["email_verified"]) == ("alice@example.com", True)
    assert shown["new_email"] == NEW


def test_the_answer_has_the_address_that_is_confirmed_while_the_wish_for_it_is_taken_back(
    verified, mailbox, change, confirm_meanwhile
):
    change(NEW)
    statuses = confirm_meanwhile(token_of(mailbox.send()[1]))
    shown = change("alice@example.com").json
    assert statuses == [204]
    assert (shown["email"], shown["new_email"]) == (NEW, "alice@example.com")


def test_an_address_of_another_user_is_refused_at_once_and_again_when_it_is_confirmed(
    client, verified, mailbox, register, change, verify, me
):
    register("bob")
    taken = change("BOB@example.com")
    assert taken.json["errors"] == {"email": ["please use a different email address"]}
    mailbox.send()
    change(NEW)
    token = token_of(mailbox.send()[1])
    register("carol", email=NEW)
    assert_refused(verify(token), "another user has this address by now")
    assert me()["email"] == "alice@example.com"


def test_of_two_users_who_confirm_the_same_address_at_once_one_gets_it(
    app, client, verified, mailbox, change, register, verify
):
    bob = register("bob")
    verify(mailbox.token())
    for id, name in ((verified, "alice"), (bob, "bob")):
        body = {"email": NEW}
        response = client.put(f"/api/users/{id}", json=body, headers=basic(name))
        assert response.json["new_email"] == NEW
    tokens = [token_of(mail) for mail in mailbox.send() if mail["To"] == NEW]

    def confirm(number):
        body = {"token": tokens[number]}
        return app.test_client().post("/api/email-verifications", json=body)

    answers = at_once(2, confirm)
    assert sorted(answer.status_code for answer in answers) == [204, 400]


def test_a_link_can_be_sent_again(client, alice, bob, mailbox, verify):
    mailbox.send()
    path = f"/api/users/{alice}/email-verification"
    assert client.post(path).status_code == 401
    assert client.post(path, headers=basic("bob")).status_code == 403
    response = client.post(path, headers=basic("alice"))
    assert (response.status_code, response.json) == (202, {})
    assert verify(mailbox.token()).status_code == 204
    assert_refused(
        client.post(path, headers=basic("alice")), "your e-mail address is verified already"
    )


def test_a_used_link_stays_used_when_the_former_address_returns(
    verified, mailbox, change, verify, me
):
    change(NEW)
    used = token_of(mailbox.send()[1])
    assert verify(used).status_code == 204
    change("alice@example.com")
    assert verify(token_of(mailbox.send()[1])).status_code == 204
    change(NEW)
    assert_refused(verify(used), INVALID)
    assert me()["email"] == "alice@example.com"


def test_a_log_in_that_is_not_fresh_does_not_take_back_the_wish_for_another_address(
    client, verified, change, mailbox, log_in
):
    token = log_in("alice")
    change(NEW)
    with later(minutes=50):
        assert client.put("/api/tokens", headers=bearer(token)).status_code == 200
    with later(minutes=100):
        path, body = f"/api/users/{verified}", {"email": "alice@example.com"}
        assert client.put(path, json=body, headers=bearer(token)).status_code == 401
        assert client.get(path, headers=bearer(token)).json["new_email"] == NEW


def test_nobody_uses_up_the_limit_of_another(app, client, verified, register, mailbox):
    app.config["MAIL_LIMIT_PER_RECIPIENT"] = "2 per hour"
    register("stranger", email="alice+x@example.com")
    for _ in range(3):
        client.post("/api/tokens/reset", json={"login": "stranger"})
        for number in range(3):
            body = {"email": f"alice+{number}@example.com"}
            client.put("/api/users/2", json=body, headers=basic("stranger"))
    mailbox.send()
    client.post("/api/tokens/reset", json={"login": "alice"})
    client.put("/api/users/2", json={"email": "new+1@example.com"}, headers=basic("stranger"))
    register("new")
    got = {mail["To"] for mail in mailbox.send()}
    assert {"alice@example.com", "new@example.com"} <= got
    assert "alice+x@example.com" not in got


def test_links_to_one_mailbox_are_limited(app, client, alice, mailbox, change):
    app.config["MAIL_LIMIT_PER_RECIPIENT"] = "2 per hour"
    path = f"/api/users/{alice}/email-verification"
    for _ in range(3):
        assert client.post(path, headers=basic("alice")).status_code == 202
    assert len(mailbox.send()) == 2
    for number in range(3):  # all are of one mailbox
        change(f"victim+{number}@example.net")
        asked = [mail["To"] for mail in mailbox.send() if mail["Subject"].startswith("Confirm")]
        assert len(asked) == (number < 2)


def test_a_source_can_ask_for_few_links(app, client, alice, change, register):
    app.config["MAIL_LIMIT_PER_SOURCE"] = "2 per hour"
    path = f"/api/users/{alice}/email-verification"
    assert client.post(path, headers=basic("alice")).status_code == 202
    assert change(NEW).status_code == 200
    assert client.post(path, headers=basic("alice")).status_code == 429
    register("bob")
    for address in ("other@example.com", "bob@example.com"):  # else it would tell who is here
        assert change(address).status_code == 429


def test_a_former_address_that_a_link_is_mailed_to_again_counts(
    app, with_mail_server, alice, change
):
    app.config["MAIL_LIMIT_PER_SOURCE"] = "2 per hour"
    statuses = [change(address).status_code for address in (NEW, "alice@example.com", NEW)]
    assert statuses == [200, 200, 429]


def test_a_user_with_a_verified_address_can_stay_there_beyond_the_limit(app, verified, change, me):
    app.config["MAIL_LIMIT_PER_SOURCE"] = "1 per hour"
    assert change(NEW).status_code == 200
    assert change("alice@example.com").status_code == 200
    assert "new_email" not in me()


# -- REQUIRE_VERIFIED_EMAIL ------------------------------------------------------------


@pytest.fixture
def required(app, token):
    """Alice's token, from before only verified users are let in."""
    app.config["REQUIRE_VERIFIED_EMAIL"] = True
    return token


def assert_closed(response):
    assert (response.status_code, response.json["message"]) == (403, CLOSED)


def test_by_default_a_user_without_a_verified_address_may_do_everything(client, alice, token):
    assert client.get("/api/users", headers=bearer(token)).status_code == 200


def test_the_setting_closes_everything_to_a_user_without_a_verified_address(
    client, alice, required, mailbox, verify
):
    for headers in (basic("alice"), bearer(required)):
        for method, path in (
            ("GET", "/api/users"),
            ("GET", "/api/users/me"),
            ("PUT", "/api/tokens"),
            ("DELETE", f"/api/users/{alice}"),
            ("GET", "/api/access-tokens"),
            ("GET", "/api/sessions"),
            ("DELETE", "/api/sessions"),
        ):
            assert_closed(client.open(path, method=method, headers=headers))
    assert_closed(client.post("/api/tokens", headers=basic("alice")))
    assert client.post("/api/tokens", headers=basic("alice", "wrong one")).status_code == 401
    verify(mailbox.token())
    assert client.get("/api/users/me", headers=bearer(required)).status_code == 200
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 200


def test_a_right_password_of_who_is_shut_out_is_in_the_audit_log(client, alice, required, events):
    before = len(events())
    assert_closed(client.get("/api/users/me", headers=basic("alice")))
    assert [(line["event"], line["user_id"]) for line in events()[before:]] == [("log_in", alice)]


def test_who_has_another_address_than_the_verified_one_is_shut_out(app, client, verified):
    app.config["REQUIRE_VERIFIED_EMAIL"] = True
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200
    with app.app_context():
        db.session.execute(sa.text("UPDATE \"user\" SET email = 'other@example.com'"))
        db.session.commit()
    assert_closed(client.get("/api/users/me", headers=basic("alice")))


def test_who_is_shut_out_can_correct_a_mistyped_address_and_have_the_link_sent(
    client, alice, required, mailbox, verify, me
):
    mailbox.send()
    path = f"/api/users/{alice}"
    assert_closed(client.put(path, json={"about_me": "x"}, headers=basic("alice")))
    body = {"email": NEW, "about_me": "x"}
    assert_closed(client.put(path, json=body, headers=basic("alice")))
    assert client.put(path, json={"email": NEW}, headers=basic("alice")).status_code == 200
    mailbox.send()
    response = client.post(f"{path}/email-verification", headers=bearer(required))
    assert response.status_code == 202
    verify(mailbox.token())
    assert me()["email"] == NEW


def test_other_services_do_not_let_in_a_user_without_a_verified_address(
    app, client, alice, bob, mailbox, log_in, verify
):
    token = log_in("alice")
    for mail in mailbox.send():
        if mail["To"] == "bob@example.com":
            verify(token_of(mail))
    app.config["REQUIRE_VERIFIED_EMAIL"] = True

    def introspect():
        data = {"token": token}
        return client.post("/api/tokens/introspect", data=data, headers=basic("bob")).json

    assert introspect() == {"active": False}
    app.config["REQUIRE_VERIFIED_EMAIL"] = False
    assert introspect()["active"] is True


def test_who_changes_a_verified_address_is_not_shut_out(app, client, verified, change):
    app.config["REQUIRE_VERIFIED_EMAIL"] = True
    assert change(NEW).json["new_email"] == NEW
    assert client.get("/api/users", headers=basic("alice")).status_code == 200


def test_the_operator_can_take_an_address_as_verified(app, client, alice, required):
    result = app.test_cli_runner().invoke(args=["users", "verify", "alice"])
    assert result.stdout == "alice@example.com is verified\n"
    assert client.get("/api/users/me", headers=bearer(required)).status_code == 200


def test_who_is_shut_out_can_log_out(client, required):
    assert client.delete("/api/tokens", headers=bearer(required)).status_code == 204


def test_registering_is_open(client, required):
    assert client.post("/api/users", json=json_of("bob")).status_code == 201
