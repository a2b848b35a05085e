"""The audit log: a line of JSON for each event, and no way to forge one."""

from datetime import datetime, timedelta

import pytest

from app import db
from app.models import User
from tests.helpers import PASSWORD, basic, bearer


def fields(event):
    return event["event"], event["user_id"], event["source"]


def test_each_event_is_a_line(app, client, alice, events):
    token = client.post("/api/tokens", headers=basic("alice")).json["token"]
    client.get("/api/users/me", headers=basic("alice"))
    client.get("/api/users/me", headers=bearer(token))
    client.get("/api/users/me", headers=basic("alice", "wrong one"))
    client.post("/api/tokens", headers=basic("nobody"))
    client.delete("/api/tokens", headers=bearer(token))
    body = {"current_password": "wrong one", "new_password": "battery staple"}
    headers = bearer(client.post("/api/tokens", headers=basic("alice")).json["token"])
    client.put(f"/api/users/{alice}/password", json=body, headers=headers)
    body["current_password"] = PASSWORD
    client.put(f"/api/users/{alice}/password", json=body, headers=headers)
    client.delete(f"/api/users/{alice}", headers=basic("alice", "battery staple"))
    for _ in range(17):  # with the three above, as many as one address has
        client.post("/api/tokens", headers=basic("alice"))
    assert [fields(event)[:2] for event in events()] == [
        ("log_in", alice),
        ("log_in", alice),
        ("log_in_failed", alice),
        ("log_in_failed", None),
        ("log_out", alice),
        ("log_in", alice),
        ("log_in_failed", alice),
        ("password_changed", alice),
        ("log_in", alice),
        ("deactivated", alice),
        *[("log_in_failed", None)] * 17,
    ]
    client.post("/api/tokens", headers=basic("somebody"))
    assert fields(events()[-1]) == ("log_in_throttled", None, "127.0.0.1")


def test_a_guess_beyond_the_limit_names_the_user(app, client, alice, events):
    app.config["LOGIN_LIMIT_PER_SOURCE"] = "1 per hour"
    for _ in range(2):
        client.post("/api/tokens", headers=basic("alice", "wrong one"))
    assert fields(events()[-1])[:2] == ("log_in_throttled", alice)


def test_whatever_makes_rotates_or_ends_a_token_is_a_line(client, alice, events, log_in):
    headers, device = bearer(log_in("alice")), {"device": "phone"}
    phones = [
        client.post("/api/tokens", json=device, headers=basic("alice")).json["token"]
        for _ in range(2)
    ]
    (session, _) = client.get("/api/sessions?page=1", headers=headers).json["items"][1:]
    before = len(events())
    body = {"name": "script", "scope": "read"}
    made = client.post("/api/access-tokens", json=body, headers=headers).json
    path = f"/api/access-tokens/{made['id']}"
    text = client.post(f"{path}/rotation", json={}, headers=headers).json["token"]
    for method, what, options in (
        ("DELETE", path, {"headers": headers}),
        ("DELETE", f"/api/sessions/{session['id']}", {"headers": headers}),
        ("DELETE", "/api/sessions", {"headers": headers}),
        ("POST", "/api/tokens/revoke", {"data": {"token": headers["Authorization"][7:]}}),
        ("POST", "/api/tokens/revoke", {"data": {"token": text}}),  # ended already
    ):
        assert client.open(what, method=method, **options).status_code in {200, 204}
    assert [fields(event) for event in events()[before:]] == [
        ("token_created", alice, "127.0.0.1"),
        ("token_rotated", alice, "127.0.0.1"),
        *[("token_revoked", alice, "127.0.0.1")] * 4,
    ]
    assert not any(secret in str(events()) for secret in (*phones, made["token"], text))


def test_a_line_has_a_time_and_the_id_of_the_response(client, alice, events):
    response = client.post("/api/tokens", headers=basic("alice"))
    line = events()[-1]
    assert list(line) == ["time", "event", "user_id", "source", "request_id", "by"]
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    assert line["request_id"] == response.headers["X-Request-Id"]


def test_a_name_cannot_forge_a_line(app, client, alice, events, caplog):
    forged = 'x\n{"event": "log_in", "user_id": 1}'
    with app.app_context():
        db.session.get(User, alice).username = forged
        db.session.commit()
    caplog.clear()
    client.post("/api/tokens", headers=basic(forged, "wrong one"))
    client.post("/api/tokens", headers=basic(forged + "\r\n\u2028\x1b[2J", "wrong one"))
    assert len(events()) == 2
    for record in caplog.records:
        assert record.message.isprintable()


def test_the_audit_log_and_the_access_log_share_the_request_id(server, register):
    alice = register("alice")
    ok = server.request("POST", "/api/tokens", headers=basic("alice"))
    bad = server.request("POST", "/api/tokens", headers=basic("nobody\n{}"))
    server.stop()
    assert [fields(event) for event in server.events()] == [
        ("log_in", alice, "127.0.0.1"),
        ("log_in_failed", None, "127.0.0.1"),
    ]
    for event, answer in zip(server.events(), (ok, bad), strict=True):
        request_id = answer.headers["X-Request-Id"]
        assert event["request_id"] == request_id
        _, access = [line for line in server.log() if line["request_id"] == request_id]
        assert access["event"] == "request"
        assert (access["path"], access["status"]) == ("/api/tokens", answer.status)


@pytest.mark.parametrize("failing", ["commit"])
def test_an_event_is_logged_only_after_the_commit(client, token, events, monkeypatch, failing, app):
    def fail():
        raise RuntimeError(failing)

    app.config["PROPAGATE_EXCEPTIONS"] = False
    before = len(events())
    monkeypatch.setattr(db.session, failing, fail)
    assert client.delete("/api/tokens", headers=bearer(token)).status_code == 500
    assert len(events()) == before


def test_changes_of_the_user_name_and_address_are_logged_without_them(client, alice, events):
    path, headers = f"/api/users/{alice}", basic("alice@example.com")
    for body in (
        {"username": "alice", "about_me": "x"},
        {"username": "liddell"},
        {"email": "liddell@example.com", "username": "Liddell"},
    ):
        headers = basic("alice@example.com")
        assert client.put(path, json=body, headers=headers).status_code == 200
    told = [line for line in events() if line["event"] != "log_in"]
    assert [fields(line)[:2] for line in told] == [
        ("username_changed", alice),
        ("username_changed", alice),
        ("email_changed", alice),
    ]
    assert "liddell" not in str(told).lower()
