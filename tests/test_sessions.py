"""Log ins of devices: each has a token of its own, and its owner can list and end them."""

import hashlib
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import db
from app.auth.credential import Kind, current_credential, find_credential
from app.auth.http_auth import verify_password
from app.models import DeviceSession, User
from app.security import tokens
from tests.helpers import PASSWORD, basic, bearer, later

ONE_TO_64 = "must be 1 to 64 characters long, without control or invisible characters"
FRESH = (
    'Bearer realm="Microblog API", error="insufficient_user_authentication", '
    'error_description="log in again: the password was given too long ago", max_age="3600"'
)


@pytest.fixture
def log_in_at(client, alice):
    """Log in as alice with a device; return its token."""

    def log_in_at(device, **options):
        answer = client.post(
            "/api/tokens", json={"device": device}, headers=basic("alice"), **options
        )
        assert answer.status_code == 200, answer.text
        return answer.json["token"]

    return log_in_at


@pytest.fixture
def sessions(client):
    def sessions(token):
        return client.get("/api/sessions?per_page=100", headers=bearer(token)).json["items"]

    return sessions


# -- Logging in --------------------------------------------------------------------------


def test_each_log_in_of_a_device_has_its_own_token_with_all_rights(client, alice, log_in_at, token):
    texts = [log_in_at("phone"), log_in_at("phone"), log_in_at("laptop")]
    assert len({*texts, token}) == 4
    for text in texts:
        assert tokens.is_valid(text, "mbd_")
        info = client.get("/api/tokens", headers=bearer(text)).json
        assert info["scope"] == "read write introspect"
        assert info["user"] == {"id": alice, "username": "alice"}
        changed = client.put(
            f"/api/users/{alice}", json={"about_me": text[:9]}, headers=bearer(text)
        )
        assert changed.status_code == 200


def test_the_answer_is_that_of_a_shared_log_in(client, alice):
    answer = client.post("/api/tokens", json={"device": "phone"}, headers=basic("alice"))
    token = answer.json["token"]
    assert answer.json == {
        "token": token,
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": 3600,
    }
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("device", [{}, {"device": "phone"}])
def test_no_cache_stores_the_answer_to_a_log_in_by_json(client, alice, device):
    body = {"username": "alice", "password": PASSWORD, **device}
    answer = client.post("/api/tokens", json=body)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")


def test_the_database_has_a_digest_of_the_token_of_a_device(app, log_in_at):
    text = log_in_at("phone")
    with app.app_context():
        row = db.session.execute(sa.select(DeviceSession.__table__)).one()
        assert row.digest == hashlib.sha256(text.encode()).digest()
        assert text not in str(row)


@pytest.mark.parametrize("by", ["header", "body"])
def test_the_body_of_a_log_in_may_come_in_chunks(client, alice, by):
    body = {"device": "phone"}
    if by == "body":
        body |= {"username": "alice", "password": PASSWORD}
    # As `flask run` passes it on.
    chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}

    def post(text):
        return client.post(
            "/api/tokens",
            input_stream=io.BytesIO(text.encode()),
            content_type="application/json",
            headers=basic("alice") if by == "header" else None,
            environ_overrides=chunked | {"CONTENT_LENGTH": ""},
        )

    assert post(json.dumps(body)).json["token"].startswith("mbd_")
    assert post(json.dumps(body) + " " * 70_000).status_code == 413


def test_a_user_that_was_read_before_has_no_live_token_after_revoke_tokens(app, alice, token):
    with app.app_context():
        user = db.session.get(User, alice)
        assert user.has_live_token
        User.revoke_tokens(alice)
        assert not user.has_live_token


def test_logging_out_a_device_ends_it_alone(client, log_in_at, token, works):
    phone, laptop = log_in_at("phone"), log_in_at("laptop")
    assert client.delete("/api/tokens", headers=bearer(phone)).status_code == 204
    assert [works(text) for text in (phone, laptop, token)] == [False, True, True]
    assert client.delete("/api/tokens", headers=bearer(token)).status_code == 204
    assert [works(text) for text in (phone, laptop, token)] == [False, True, False]


def test_the_token_of_a_device_is_renewed_for_30_days_after_its_log_in(client, log_in_at, works):
    client.application.config["TOKEN_LIFETIME_SECONDS"] = 13 * 3600
    phone = log_in_at("phone")
    for hours in range(0, 30 * 24, 12):
        with later(hours=hours):
            log_in_at("phone")  # of which this one has nothing
            with client.put("/api/tokens", headers=bearer(phone)) as answer:  # its use is noted
                assert (answer.status_code, answer.json["token"]) == (200, phone)
                left = min(13 * 3600, (30 * 24 - hours) * 3600)
                assert left - 60 < answer.json["expires_in"] <= left
    with later(days=30, minutes=-1):
        assert works(phone)
    with later(days=30, seconds=1):
        assert not works(phone)


def test_in_the_last_half_second_of_a_token_0_seconds_are_left(client, alice, log_in_at, sessions):
    with time_machine.travel(datetime.now(UTC), tick=False) as clock:
        shared = client.post("/api/tokens", headers=basic("alice")).json["token"]
        body = {"name": "script", "scope": "read", "expires_in": 3600}
        made = client.post("/api/access-tokens", json=body, headers=basic("alice")).json
        phone = log_in_at("phone")
        clock.shift(3599.6)
        for text in (shared, made["token"], phone):
            answer = client.get("/api/tokens", headers=bearer(text))
            assert answer.json["expires_in"] == 0
        assert [one["expires_in"] for one in sessions(shared)] == [0, 0]
        listed = client.get("/api/access-tokens", headers=bearer(shared)).json["items"]
        assert [one["expires_in"] for one in listed] == [0]


def test_an_expired_token_of_a_device_is_told_from_an_unknown_one(client, log_in_at):
    phone = log_in_at("phone")
    with later(hours=2):
        log_in_at("phone")
        answer = client.get("/api/users/me", headers=bearer(phone))
    assert 'error_description="the token has expired"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("login", ["alice", "ALICE@example.com"])
@pytest.mark.parametrize("device", [None, "phone"])
def test_name_and_password_may_be_in_the_body(client, alice, login, device, works):
    body = {"username": login, "password": PASSWORD}
    body |= {} if device is None else {"device": device}
    answer = client.post("/api/tokens", json=body)
    assert answer.status_code == 200
    assert works(answer.json["token"])
    assert answer.json["token"].startswith("mbl_" if device is None else "mbd_")


def test_with_a_header_the_header_counts(client, alice, bob):
    body = {"username": "bob", "password": "wrong"}
    answer = client.post("/api/tokens", json=body, headers=basic("alice"))
    info = client.get("/api/tokens", headers=bearer(answer.json["token"])).json
    assert info["user"]["username"] == "alice"
    body = {"username": "alice", "password": PASSWORD}
    for headers in (basic("alice", "wrong"), bearer("nonsense"), {"Authorization": ""}):
        assert client.post("/api/tokens", json=body, headers=headers).status_code == 401


def test_a_wrong_password_in_the_body_is_the_same_401_and_charged_alike(client, alice):
    right = {"username": "alice", "password": PASSWORD}
    for number in range(20):
        name = ("alice", "nobody")[number % 2]
        by_body = number % 4 < 2
        given = {"username": name, "password": "wrong"}
        options = {"json": given} if by_body else {"headers": basic(name, "wrong")}
        answer = client.post("/api/tokens", **options)
        assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})
        challenge = 'Basic realm="Microblog API", charset="UTF-8"'
        assert answer.headers["WWW-Authenticate"] == challenge
    assert client.post("/api/tokens", json=right | {"username": "nobody"}).status_code == 429


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({"username": "alice"}, {"password": ["must be given"]}),
        ({"password": PASSWORD}, {"username": ["must be given"]}),
        ({"username": 5, "password": PASSWORD}, {"username": ["must be a string"]}),
        ({"username": "alice", "password": None}, {"password": ["must be a string"]}),
    ],
)
def test_half_a_log_in_in_the_body_names_the_field(client, alice, body, errors):
    answer = client.post("/api/tokens", json=body)
    assert (answer.status_code, answer.json["errors"]) == (400, errors)


@pytest.mark.parametrize("body", [[], "alice", None, 5, {}, {"device": "phone"}])
def test_a_body_without_a_log_in_is_401(client, alice, body):
    assert client.post("/api/tokens", json=body).status_code == 401


@pytest.mark.parametrize(
    "data",
    [
        *("null", "[]", '"x"', "5", "{}", '{"username": 5}', '{"password": null}', "{", "NaN"),
        "[" * 5000 + "]" * 5000,
    ],
)
def test_with_a_header_a_body_without_a_device_is_ignored(client, alice, token, data):
    answer = client.post(
        "/api/tokens", data=data, content_type="application/json", headers=basic("alice")
    )
    assert (answer.status_code, answer.json["token"]) == (200, token)


def test_with_a_header_only_the_device_of_a_body_counts(client, alice):
    body = {"device": "phone", "username": 5, "password": None}
    assert client.post("/api/tokens", json=body, headers=basic("alice")).status_code == 200


def test_a_user_agent_that_no_database_can_store_is_stored_without_it(log_in_at, sessions):
    phone = log_in_at("phone", environ_overrides={"HTTP_USER_AGENT": "a\0b" + "c" * 300})
    assert sessions(phone)[0]["user_agent"] == "ab" + "c" * 254


def test_a_credential_does_not_show_its_token(app, token):
    with app.test_request_context(headers=bearer(token)):
        credential = find_credential(token)
    assert repr(credential) == f"<Credential login token of user {credential.user_id}>"


def test_a_credential_has_kind_and_id_of_its_token(app, client, token, log_in_at, sessions):
    body = {"name": "script", "scope": "read"}
    made = client.post("/api/access-tokens", json=body, headers=basic("alice")).json
    phone = log_in_at("phone")
    id = sessions(phone)[-1]["id"]
    expected = {
        token: (Kind.LOGIN_TOKEN, None),
        made["token"]: (Kind.ACCESS_TOKEN, made["id"]),
        phone: (Kind.DEVICE_TOKEN, id),
    }
    with app.app_context():
        for text, found in expected.items():
            credential = find_credential(text)
            assert (credential.kind, credential.token_id) == found


def test_the_credential_of_a_password_shows_no_hash(app, alice):
    with app.test_request_context(headers=basic("alice")):
        credential = verify_password("alice", PASSWORD)
        assert repr(credential) == f"<Credential password of user {alice}>"


def test_without_a_request_there_is_no_credential():
    assert current_credential() is None


@pytest.mark.parametrize("in_code", [False, True])
@pytest.mark.parametrize(("days", "is_shared"), [(29, True), (30, False)])
def test_a_token_of_an_old_database_is_shared_until_30_days_after_its_log_in(
    app, client, token, log_in, days, is_shared, in_code
):
    with app.app_context():
        now = datetime.now(UTC)
        old = {"logged_in_at": now - timedelta(days=days), "token_created": None}
        db.session.execute(sa.update(User).values(**old, token_expiration=now + timedelta(days=1)))
        db.session.commit()
    if in_code:
        with app.app_context():
            assert (db.session.scalar(sa.select(User)).get_token() == token) == is_shared
    else:
        assert (log_in("alice") == token) == is_shared


def test_a_token_whose_log_in_is_unknown_cannot_be_renewed(app, client, token):
    with app.app_context():
        db.session.execute(sa.update(User).values(logged_in_at=None, token_created=None))
        db.session.commit()
    assert client.put("/api/tokens", headers=bearer(token)).status_code == 401
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize("by_header", [True, False])
@pytest.mark.parametrize(
    ("device", "text"),
    [
        ("", ONE_TO_64),
        ("x" * 65, ONE_TO_64),
        ("a\nb", ONE_TO_64),
        (None, "must be a string"),
        (7, "must be a string"),
    ],
)
def test_a_device_that_cannot_be_is_named_and_nobody_is_logged_in(
    client, alice, log_in, device, text, by_header
):
    body = {"device": device}
    if not by_header:
        body |= {"username": "alice", "password": PASSWORD}
    headers = basic("alice") if by_header else {}
    answer = client.post("/api/tokens", json=body, headers=headers)
    assert (answer.status_code, answer.json["errors"]) == (400, {"device": [text]})
    listed = client.get("/api/sessions", headers=basic("alice")).json
    assert listed["_meta"]["total_items"] == 0


# -- Listing and ending ------------------------------------------------------------------


def test_a_user_lists_the_live_log_ins(client, alice, bob, log_in, log_in_at):
    log_in("bob")
    log_in("alice")
    phone = log_in_at("phone", environ_overrides={"REMOTE_ADDR": "203.0.113.7"})
    with later(minutes=50):
        laptop = log_in_at("laptop", environ_overrides={"HTTP_USER_AGENT": "curl/8"})
        answer = client.get("/api/sessions", headers=bearer(phone))
    shared, first, second = answer.json["items"]
    assert shared["id"] == 0 < first["id"] < second["id"]
    assert (shared["device"], shared["current"], shared["address"]) == (None, False, "127.0.0.1")
    assert shared["user_agent"] == first["user_agent"] != "curl/8"
    assert shared["created"] <= shared["last_used"]
    assert (first["device"], first["current"]) == ("phone", True)
    assert (first["address"], first["expires_in"]) == ("203.0.113.7", 600)
    assert (second["device"], second["user_agent"]) == ("laptop", "curl/8")
    assert second["last_used"] >= second["created"] > first["created"]
    with later(minutes=65):  # the shared one and the phone have expired
        answer = client.get("/api/sessions", headers=bearer(laptop))
    assert [one["device"] for one in answer.json["items"]] == ["laptop"]


def test_the_shared_one_was_created_with_its_first_log_in(log_in, token, sessions):
    (before,) = sessions(token)
    with later(minutes=30):
        assert log_in("alice") == token
        (after,) = sessions(token)
    assert after["created"] == before["created"]
    used = datetime.fromisoformat(after["last_used"]) - datetime.fromisoformat(after["created"])
    assert timedelta(minutes=29) < used < timedelta(minutes=31)


@pytest.mark.parametrize("device", [None, "phone"])
def test_a_client_at_a_socket_has_no_address(client, alice, sessions, device):
    body = {"username": "alice", "password": PASSWORD} | ({"device": device} if device else {})
    answer = client.post("/api/tokens", json=body, environ_overrides={"REMOTE_ADDR": ""})
    assert sessions(answer.json["token"])[0]["address"] is None


@pytest.mark.parametrize("device", [None, "phone"])
def test_64_characters_of_an_address_are_shown(client, alice, sessions, device):
    body = {"username": "alice", "password": PASSWORD} | ({"device": device} if device else {})
    environ = {"REMOTE_ADDR": "fe80::1%" + "x" * 60}  # with the name of an interface
    answer = client.post("/api/tokens", json=body, environ_overrides=environ)
    assert sessions(answer.json["token"])[0]["address"] == environ["REMOTE_ADDR"][:64]


def test_the_shared_one_shows_the_last_log_in(client, alice, sessions):
    for address, agent in (("192.0.2.1", "curl/8"), ("192.0.2.2", "wget/1")):
        environ = {"REMOTE_ADDR": address, "HTTP_USER_AGENT": agent}
        answer = client.post("/api/tokens", headers=basic("alice"), environ_overrides=environ)
        shown = sessions(answer.json["token"])[0]
        assert (shown["address"], shown["user_agent"]) == (address, agent)


@pytest.mark.parametrize("device", [None, "phone"])
def test_no_header_changes_the_address_of_a_log_in(client, alice, sessions, device):
    headers = {"X-Forwarded-For": "192.0.2.9", "Forwarded": "for=192.0.2.9"}
    body = {"username": "alice", "password": PASSWORD} | ({"device": device} if device else {})
    answer = client.post("/api/tokens", json=body, headers=headers)
    assert sessions(answer.json["token"])[0]["address"] == "127.0.0.1"


def test_a_body_that_is_too_large_is_no_log_in(client, alice):
    body = b'{"device": "' + b"x" * 2_000_000 + b'"}'
    answer = client.post(
        "/api/tokens", data=body, content_type="application/json", headers=basic("alice")
    )
    assert answer.status_code == 413


def test_the_list_has_pages(client, log_in_at, token):
    texts = [log_in_at(str(number)) for number in range(4)]
    with later(minutes=1):  # the order is that of the log ins, whichever is renewed
        assert client.put("/api/tokens", headers=bearer(texts[1])).status_code == 200
    answer = client.get("/api/sessions?page=2&per_page=2", headers=bearer(token))
    assert [one["device"] for one in answer.json["items"]] == ["1", "2"]
    assert answer.json["_meta"]["total_items"] == 5


@pytest.mark.parametrize("device", [None, "phone"])
def test_a_use_is_noted_to_the_hour_after_the_answer(
    client, alice, log_in, log_in_at, sessions, statements, device
):
    text = log_in("alice") if device is None else log_in_at(device)
    client.application.config["TOKEN_LIFETIME_SECONDS"] = 24 * 3600
    client.put("/api/tokens", headers=bearer(text))
    (before,) = sessions(text)
    with later(minutes=59):
        statements.clear()
        with client.get("/api/users/me", headers=bearer(text)):
            pass
        assert len(statements) == 1  # the SELECT
    with later(minutes=61):
        with client.get("/api/users/me", headers=bearer(text)):
            assert not any(statement.startswith("UPDATE") for statement in statements)
        assert any(statement.startswith("UPDATE") for statement in statements)
        with client.get("/api/users/me", headers=bearer(text)):
            pass
        (after,) = sessions(text)
    used = datetime.fromisoformat(after["last_used"])
    assert used - datetime.fromisoformat(before["last_used"]) > timedelta(hours=1)


def test_a_use_is_not_noted_for_other_users(client, alice, bob, log_in, sessions):
    client.application.config["TOKEN_LIFETIME_SECONDS"] = 24 * 3600
    texts = log_in("alice"), log_in("bob")
    before = [sessions(text)[0]["last_used"] for text in texts]
    with later(minutes=61), client.get("/api/users/me", headers=bearer(texts[0])):
        pass
    after = [sessions(text)[0]["last_used"] for text in texts]
    assert after[0] > before[0]
    assert after[1] == before[1]


def test_one_is_ended_by_its_id_and_no_other(client, log_in_at, token, works, sessions):
    phone, laptop = log_in_at("phone"), log_in_at("laptop")
    _, of_phone, of_laptop = (f"/api/sessions/{one['id']}" for one in sessions(token))
    assert client.delete(of_phone, headers=bearer(laptop)).status_code == 204
    assert [works(text) for text in (phone, laptop, token)] == [False, True, True]
    assert client.delete("/api/sessions/0", headers=bearer(laptop)).status_code == 204
    assert [works(text) for text in (phone, laptop, token)] == [False, True, False]
    assert client.delete(of_laptop, headers=bearer(laptop)).status_code == 204
    assert not works(laptop)


def test_what_is_nobodys_or_somebody_elses_is_404(client, log_in_at, bob, log_in, works, sessions):
    phone, ended = log_in_at("phone"), log_in_at("laptop")
    id_of_ended = sessions(ended)[-1]["id"]
    client.delete("/api/tokens", headers=bearer(ended))
    body = {"device": "b"}
    of_bob = client.post("/api/tokens", json=body, headers=basic("bob")).json["token"]
    others = [log_in("bob"), of_bob]
    for id in (0, id_of_ended, sessions(of_bob)[-1]["id"], 10**18 - 1):
        assert client.delete(f"/api/sessions/{id}", headers=bearer(phone)).status_code == 404
    assert all(map(works, others))


def test_all_but_the_one_that_asks_are_ended(client, log_in_at, token, works, bob, log_in):
    phone, laptop, others = log_in_at("phone"), log_in_at("laptop"), log_in("bob")
    body = {"device": "Bob's phone"}
    of_bob = client.post("/api/tokens", json=body, headers=basic("bob")).json["token"]
    assert client.delete("/api/sessions", headers=bearer(phone)).status_code == 204
    assert [works(text) for text in (phone, laptop, token)] == [True, False, False]
    assert works(others)
    assert works(of_bob)
    shared, laptop = log_in("alice"), log_in_at("laptop")
    assert client.delete("/api/sessions", headers=bearer(shared)).status_code == 204
    assert [works(text) for text in (phone, laptop, shared)] == [False, False, True]
    assert client.delete("/api/sessions", headers=basic("alice")).status_code == 204
    assert not works(shared)


def test_access_tokens_are_no_log_ins(client, log_in_at, works):
    body = {"name": "backup", "scope": "read write"}
    phone = log_in_at("phone")
    made = client.post("/api/access-tokens", json=body, headers=bearer(phone)).json
    for method in ("GET", "DELETE"):
        answer = client.open("/api/sessions", method=method, headers=bearer(made["token"]))
        assert answer.status_code == 403
    assert client.delete("/api/sessions", headers=basic("alice")).status_code == 204
    assert works(made["token"])


def test_one_log_in_too_many_ends_the_one_that_was_unused_for_longest(
    client, log_in_at, token, works
):
    config = client.application.config
    config["SESSIONS_PER_USER"], config["TOKEN_LIFETIME_SECONDS"] = 3, 24 * 3600
    first, second, third = (log_in_at(name) for name in "abc")
    with later(hours=2):
        for text in (first, third):
            with client.get("/api/users/me", headers=bearer(text)):
                pass
        fourth = log_in_at("d")
        assert [works(text) for text in (first, second, third, fourth)] == [True, False, True, True]
    assert works(token)


def test_expired_ones_do_not_count(client, log_in_at, works):
    client.application.config["SESSIONS_PER_USER"] = 1
    log_in_at("a")
    with later(hours=2):
        assert works(log_in_at("b"))
    with later(days=40):
        log_in_at("c")
        with client.application.app_context():
            devices = db.session.scalars(sa.select(DeviceSession.device)).all()
    assert devices == ["c"]  # the others have been deleted


@pytest.mark.parametrize("how", ["password", "deactivation", "command", "account"])
def test_what_ends_all_tokens_ends_those_of_devices(app, client, alice, log_in_at, works, how):
    phone = log_in_at("phone")
    if how == "password":
        body = {"current_password": PASSWORD, "new_password": "battery staple"}
        client.put(f"/api/users/{alice}/password", json=body, headers=bearer(phone))
    elif how == "account":
        client.delete(f"/api/users/{alice}", headers=bearer(phone))
    elif how == "deactivation":
        app.test_cli_runner().invoke(args=["users", "deactivate", "alice"])
        app.test_cli_runner().invoke(args=["users", "activate", "alice"])
    else:
        result = app.test_cli_runner().invoke(args=["tokens", "revoke", "alice"])
        assert result.output.endswith("1 token ended\n")
    assert not works(phone)


def test_other_services_learn_whose_token_of_a_device_it_is(client, log_in_at, works):
    phone = log_in_at("phone")
    answer = client.post(
        "/api/tokens/introspect", data={"token": phone}, headers=basic("alice")
    ).json
    assert (answer["active"], answer["username"], answer["token_type"]) == (True, "alice", "Bearer")
    assert client.post("/api/tokens/revoke", data={"token": phone}).status_code == 200
    assert not works(phone)


def test_commands_know_the_log_ins(app, client, alice, log_in_at, token, works):
    run = app.test_cli_runner().invoke
    phone, laptop = log_in_at("phone"), log_in_at("laptop")
    lines = [line.split("\t") for line in run(args=["tokens", "list", "alice"]).output.splitlines()]
    listed = [line[1:3] for line in lines if len(line) == 5]
    assert listed == [["", "shared log in"], ["phone", "device"], ["laptop", "device"]]
    output = run(args=["tokens", "revoke", "alice", "--device", "phone"]).output
    assert output.endswith("1 token ended\n")
    assert [works(text) for text in (phone, laptop, token)] == [False, True, True]
    result = run(args=["tokens", "revoke", "alice", "--device", "phone"])
    assert (result.exit_code, result.output) == (
        1,
        "Error: the user has no device with the name 'phone'\n",
    )
    result = run(args=["tokens", "revoke", "alice", "--device", "a", "--name", "b"])
    assert result.exit_code == 2
    with later(days=31):
        assert run(args=["tokens", "prune"]).output == "1 token deleted\n"
    with app.app_context():
        late = datetime.now(UTC) + timedelta(days=200)
        session = DeviceSession.start(db.session.get(User, alice), "tv", 10**7 * 2, most=50)
        session.token_expiration = late
        db.session.commit()
    with later(days=91):
        assert "alice\ttv\tnot used for 90 days\n" in run(args=["tokens", "doctor"]).output


# -- A fresh log in ----------------------------------------------------------------------

NEEDS_FRESH = [
    ("PUT", "/api/users/{id}", {"username": "Alice"}),
    ("PUT", "/api/users/{id}", {"email": "Alice@example.com"}),
    ("PUT", "/api/users/{id}", {"username": "alicia"}),
    ("PUT", "/api/users/{id}", {"email": "alicia@example.com"}),
    ("POST", "/api/access-tokens", {"name": "backup", "scope": "read"}),
    ("DELETE", "/api/users/{id}", None),
]


@pytest.mark.parametrize("kind", ["shared", "device"])
@pytest.mark.parametrize(("method", "path", "body"), NEEDS_FRESH)
def test_what_changes_the_account_takes_a_fresh_log_in(
    client, alice, token, log_in_at, works, kind, method, path, body
):
    client.application.config["TOKEN_LIFETIME_SECONDS"] = 2 * 3600
    text = log_in_at("phone") if kind == "device" else token
    client.put("/api/tokens", headers=bearer(text))
    with later(seconds=3601):
        with client.get("/api/users/me", headers=bearer(text)):  # which notes its use
            pass
        answer = client.open(path.format(id=alice), method=method, json=body, headers=bearer(text))
        assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})
        assert answer.headers["WWW-Authenticate"] == FRESH
        assert works(text)
    with later(seconds=3595):
        answer = client.open(path.format(id=alice), method=method, json=body, headers=bearer(text))
        assert answer.status_code < 300


@pytest.mark.parametrize(("method", "path", "body"), NEEDS_FRESH)
def test_a_password_in_the_request_is_fresh(client, alice, method, path, body):
    answer = client.open(path.format(id=alice), method=method, json=body, headers=basic("alice"))
    assert answer.status_code < 300


def test_what_stays_as_it_is_needs_no_fresh_log_in(client, alice, token):
    client.application.config["TOKEN_LIFETIME_SECONDS"] = 2 * 3600
    client.put("/api/tokens", headers=bearer(token))
    body = {"username": "alice", "email": "alice@example.com", "about_me": "Down"}
    with later(seconds=3601):
        assert (
            client.put(f"/api/users/{alice}", json=body, headers=bearer(token)).status_code == 200
        )
        body = {"current_password": PASSWORD, "new_password": "battery staple"}
        path = f"/api/users/{alice}/password"
        assert client.put(path, json=body, headers=bearer(token)).status_code == 204


def test_another_log_in_makes_the_shared_token_fresh_and_no_other(client, token, log_in, log_in_at):
    client.application.config["TOKEN_LIFETIME_SECONDS"] = 2 * 3600
    phone = log_in_at("phone")
    for text in (token, phone):
        client.put("/api/tokens", headers=bearer(text))
    body = {"name": "backup", "scope": "read"}
    with later(seconds=3601):
        log_in_at("laptop")
        for text in (token, phone):
            answer = client.post("/api/access-tokens", json=body, headers=bearer(text))
            assert answer.status_code == 401
        assert log_in("alice") == token
        answers = [
            client.post("/api/access-tokens", json=body, headers=bearer(text)).status_code
            for text in (token, phone)
        ]
        assert answers == [201, 401]


def test_the_story_of_a_thief(client, alice, log_in_at, works):
    stolen, laptop = log_in_at("phone"), log_in_at("laptop")
    for minutes in (50, 100):  # who has the token can renew it
        with later(minutes=minutes):
            assert client.put("/api/tokens", headers=bearer(stolen)).status_code == 200
    with later(minutes=120):
        for method, path, body in NEEDS_FRESH:
            answer = client.open(
                path.format(id=alice), method=method, json=body, headers=bearer(stolen)
            )
            assert answer.status_code == 401
        guess = {"current_password": "guess", "new_password": "battery staple"}
        answer = client.put(f"/api/users/{alice}/password", json=guess, headers=bearer(stolen))
        assert answer.status_code == 403
        assert works(stolen)
        # The owner sees it, and ends it from another device.
        laptop = log_in_at("laptop")
        assert "phone" in client.get("/api/sessions", headers=bearer(laptop)).text
        assert client.delete("/api/sessions", headers=bearer(laptop)).status_code == 204
        assert not works(stolen)
        assert client.put("/api/tokens", headers=bearer(stolen)).status_code == 401
        me = client.get("/api/users/me", headers=bearer(laptop)).json
        assert (me["username"], me["email"]) == ("alice", "alice@example.com")
        listed = client.get("/api/access-tokens", headers=bearer(laptop)).json
        assert listed["_meta"]["total_items"] == 0


# -- Cost --------------------------------------------------------------------------------


def test_each_kind_of_token_is_checked_by_one_select(client, token, log_in_at, statements):
    body = {"name": "backup", "scope": "read"}
    made = client.post("/api/access-tokens", json=body, headers=bearer(token)).json
    for text in (token, log_in_at("phone"), made["token"]):
        with client.get("/api/users/me", headers=bearer(text)):
            pass
        statements.clear()
        with client.get("/api/users/me", headers=bearer(text)):
            pass
        assert len(statements) == 1
        assert statements[0].startswith("SELECT")
