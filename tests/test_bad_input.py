"""Bodies that are not JSON, have invalid values or are too large: refused, nothing stored."""

import json

import pytest
import sqlalchemy as sa

from app import db
from app.models import User
from tests.helpers import PASSWORD, bearer

GOOD = {"username": "carol", "email": "carol@example.com", "password": PASSWORD}

# PUT has no password field: a password is ignored, like any unknown field.
NEEDED = [
    ("POST", "username"),
    ("POST", "email"),
    ("POST", "password"),
    ("PUT", "username"),
    ("PUT", "email"),
]


@pytest.fixture(params=["POST", "PUT"])
def send(request, app, client, alice, token):
    """Send a body to register or to change Alice; check afterwards that no user has changed."""

    def users():
        with app.app_context():
            columns = (User.id, User.username, User.email, User.about_me, User.password_hash)
            return db.session.execute(sa.select(*columns).order_by(User.id)).all()

    # Both requests send Alice's token; POST ignores it.
    path = "/api/users" if request.param == "POST" else f"/api/users/{alice}"
    before = users()

    def send(body, content_type="application/json"):
        return client.open(
            path, method=request.param, data=body, content_type=content_type, headers=bearer(token)
        )

    send.method = request.param
    yield send
    assert users() == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'username': 'x'}",
        b'{"username": "x",}',
        b"{} {}",
        b'{"username": "\xff"}',
        b'{"username": "\xed\xa0\x80"}',
        b'\x00{"username": "x"}',
        b'{"about_me": NaN}',
        b'{"about_me": Infinity}',
        b'{"about_me": -Infinity}',
        b'{"about_me": ' + b"9" * 5000 + b"}",
        b"[" * 60_000,
        b'{"a":' * 12_000,
    ],
    ids=lambda body: body[:20],
)
def test_a_body_that_is_not_json_is_refused(send, body):
    response = send(body)
    assert response.status_code == 400
    assert response.json == {"error": "Bad Request", "message": "the body is not valid JSON"}


def test_a_byte_order_mark_is_ignored(client):
    body = b"\xef\xbb\xbf" + json.dumps(GOOD).encode()
    response = client.post("/api/users", data=body, content_type="application/json")
    assert response.status_code == 201


@pytest.mark.parametrize("body", ["null", "true", "1", "1.5", '"text"', "[]", "[{}]", '[["a", 1]]'])
def test_a_json_body_that_is_not_an_object_is_refused(send, body):
    response = send(body)
    assert response.status_code == 400
    assert response.json == {"error": "Bad Request", "message": "the body must be a JSON object"}


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "text/json"]
)
def test_a_body_that_is_not_declared_as_json_is_refused(send, content_type):
    response = send(json.dumps(GOOD), content_type)
    assert response.status_code == 415
    assert response.json["error"] == "Unsupported Media Type"
    assert "application/json" in response.json["message"]


@pytest.mark.parametrize(
    ("send", "field"), [*NEEDED, ("POST", "about_me"), ("PUT", "about_me")], indirect=["send"]
)
@pytest.mark.parametrize(
    "value",
    [1, 1.5, True, [], {}, ["x"], {"x": "y"}, "\0", "a\0b", "\ud800", "a\udfffb", "x" * 60_000],
    ids=lambda value: repr(value)[:10],
)
def test_a_wrong_value_is_refused_and_its_field_is_named(send, field, value):
    response = send(json.dumps(GOOD | {field: value}))
    assert response.status_code == 400
    assert list(response.json["errors"]) == [field]
    assert field in response.json["message"]


@pytest.mark.parametrize(("send", "field"), NEEDED, indirect=["send"])
def test_null_is_refused_in_a_field_that_must_have_a_value(send, field):
    response = send(json.dumps(GOOD | {field: None}))
    assert response.status_code == 400
    assert response.json["errors"] == {field: ["must be a string"]}


@pytest.mark.parametrize("field", ["username", "email", "password", "about_me", "unknown"])
def test_a_body_of_a_megabyte_is_refused(send, field):
    response = send(json.dumps(GOOD | {field: "x" * 1_000_000}))
    assert response.status_code == 413
    assert response.json["error"] == "Request Entity Too Large"


def test_100_000_brackets_are_refused(send):
    assert send("[" * 100_000).status_code in (400, 413)


def test_all_invalid_fields_are_named_in_one_answer(send):
    body = {"username": "a b", "email": "nowhere", "password": "short", "about_me": "x" * 141}
    response = send(json.dumps(body))
    assert response.status_code == 400
    expected = ["username", "email", "about_me"] + ["password"] * (send.method == "POST")
    assert sorted(response.json["errors"]) == sorted(expected)
    assert all(name in response.json["message"] for name in expected)
