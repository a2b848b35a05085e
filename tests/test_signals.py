"""Signals: each event of the audit log, for code of one's own."""

import pytest
import sqlalchemy as sa

from app import db, signals
from app.auth import current_credential
from app.http.audit import Event
from app.models import User
from tests.helpers import basic, bearer


@pytest.fixture
def received():
    """A list of (name, arguments) of each signal that is sent."""
    seen = []
    receivers = []
    for event in Event:

        def receive(_app, event=event, **values):
            seen.append((event.value, values))

        receivers.append((signals.named(event), receive))
    for signal, receive in receivers:
        signal.connect(receive)
    yield seen
    for signal, receive in receivers:
        signal.disconnect(receive)


@pytest.fixture
def on():
    """Return a function that connects a receiver until the end of the test."""
    connected = []

    def on(signal, receive):
        connected.append((signal, receive))
        signal.connect(receive)

    yield on
    for signal, receive in connected:
        signal.disconnect(receive)


def test_the_module_has_a_signal_for_each_event_and_no_other():
    names = {name for name, value in vars(signals).items() if hasattr(value, "receivers")}
    assert names == {event.value for event in Event}
    for name in names:
        assert getattr(signals, name).name == name


def test_each_line_of_the_audit_log_is_sent(app, client, alice, events, received):
    token = client.post("/api/tokens", headers=basic("alice")).json["token"]
    client.post("/api/tokens", headers=basic("nobody"))
    client.delete("/api/tokens", headers=bearer(token))
    app.test_cli_runner().invoke(args=["users", "grant", "alice", "admin"])
    keys = ("event", "user_id", "by", "request_id", "role")
    logged = [tuple(line.get(key) for key in keys) for line in events()]
    assert logged == [(name, *(values.get(key) for key in keys[1:])) for name, values in received]
    assert [name for name, _ in received] == ["log_in", "log_in_failed", "log_out", "role_granted"]
    kinds = [values["credential"] and values["credential"].kind for _, values in received]
    assert kinds == [None, None, "login token", None]


@pytest.mark.parametrize("route", ["/api/tokens", "/api/access-tokens"])
def test_the_credential_names_the_row_of_its_token(client, alice, on, route):
    seen = []
    on(signals.log_out, receive := lambda _app, credential, **_: seen.append(credential.token_id))
    body = {"device": "phone"} if route == "/api/tokens" else {"name": "a", "scope": "read"}
    made = client.post(route, json=body, headers=basic("alice")).json
    if route == "/api/tokens":
        (listed,) = client.get("/api/sessions", headers=basic("alice")).json["items"]
    client.delete("/api/tokens", headers=bearer(made["token"]))
    assert seen == [listed["id"] if route == "/api/tokens" else made["id"]]
    assert receive


@pytest.mark.parametrize("failure", [RuntimeError("broken"), sa.exc.OperationalError("x", {}, "y")])
def test_a_receiver_that_raises_changes_no_answer_and_keeps_no_other_from_being_called(
    client, token, on, caplog, failure
):
    def fail(_app, **_):
        db.session.add(User(username="half", email="done@example.com"))
        db.session.flush()
        raise failure

    seen = []

    def note(_app, **values):
        seen.append(values["user_id"])

    def fail_too(_app, **_):
        raise failure

    for receive in (fail, note, fail_too):
        on(signals.log_out, receive)
    assert client.delete("/api/tokens", headers=bearer(token)).status_code == 204
    assert len(seen) == 1
    errors = [one.message for one in caplog.records if one.levelname == "ERROR"]
    assert len(errors) == 2
    assert "log_out" in errors[0]
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    names = [
        one["username"] for one in client.get("/api/users", headers=basic("alice")).json["items"]
    ]
    assert names == ["alice"]


def test_what_a_failed_receiver_has_begun_is_not_committed_by_the_request(client, alice, on):
    def fail(_app, user_id, **_):
        db.session.get(User, user_id).about_me = "half done"
        db.session.flush()
        raise RuntimeError

    on(signals.log_in, fail)
    me = client.put(f"/api/users/{alice}", json={}, headers=basic("alice")).json
    assert me["about_me"] is None
    assert client.get("/api/users/me", headers=basic("alice")).json["about_me"] is None


def test_a_receiver_may_write_also_after_the_credential_has_ended(client, alice, token, on):
    """The log out is committed by then; a second check would refuse the write with 401."""

    def write(_app, user_id, credential, **_):
        assert current_credential() is None
        db.session.get(User, user_id).about_me = f"logged out with a {credential.kind}"
        db.session.commit()

    on(signals.log_out, write)
    response = client.delete("/api/tokens", headers=bearer(token))
    assert response.status_code == 204
    me = client.get("/api/users/me", headers=basic("alice")).json
    assert me["about_me"] == "logged out with a login token"


def test_a_receiver_finds_the_change_committed(client, alice, token, on):
    seen = []

    def read(_app, user_id, **_):
        seen.append(db.session.get(User, user_id).email)

    on(signals.email_changed, read)
    body = {"email": "liddell@example.com"}
    answer = client.put(f"/api/users/{alice}", json=body, headers=bearer(token))
    assert (answer.status_code, answer.json["email"]) == (200, "liddell@example.com")
    assert seen == ["liddell@example.com"]
