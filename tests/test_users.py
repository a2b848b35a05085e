"""Registering, reading and changing users."""

import hashlib
import re
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from email_validator import EmailNotValidError

from app import create_app, db
from app.models import User
from tests.helpers import PASSWORD, basic, bearer

EMAIL_HASH = hashlib.sha256(b"alice@example.com").hexdigest()


def test_registering_returns_the_user_and_its_location(client):
    response = client.post(
        "/api/users",
        json={
            "username": "alice",
            "email": "alice@Example.COM",
            "password": PASSWORD,
            "about_me": "Ein Gruß\nin zwei Zeilen 🙂",
        },
    )
    assert response.status_code == 201
    user = response.json
    assert response.headers["Location"] == f"/api/users/{user['id']}"
    assert user == {
        "id": user["id"],
        "username": "alice",
        "about_me": "Ein Gruß\nin zwei Zeilen 🙂",
        "last_seen": user["last_seen"],
        "post_count": 0,  # microblog
        "follower_count": 0,  # microblog
        "following_count": 0,  # microblog
        "_links": {
            "self": f"/api/users/{user['id']}",
            "followers": f"/api/users/{user['id']}/followers",  # microblog
            "following": f"/api/users/{user['id']}/following",  # microblog
            "avatar": f"https://www.gravatar.com/avatar/{EMAIL_HASH}?d=identicon&s=128",
        },
    }
    assert user["last_seen"].endswith("+00:00")
    me = client.get("/api/users/me", headers=basic("alice")).json
    assert me["email"] == "alice@example.com"


@pytest.mark.parametrize("missing", ["username", "email", "password"])
def test_registering_needs_three_fields(client, missing):
    body = {"username": "alice", "email": "alice@example.com", "password": PASSWORD}
    del body[missing]
    response = client.post("/api/users", json=body)
    text = "must include username, email and password fields"
    assert response.status_code == 400
    assert response.json == {"error": "Bad Request", "message": text, "errors": {missing: [text]}}


@pytest.mark.parametrize("name", ["alice", "ALICE"])
def test_a_user_name_is_taken_in_any_case(client, alice, name):
    body = {"username": name, "email": "other@example.com", "password": PASSWORD}
    response = client.post("/api/users", json=body)
    assert response.status_code == 400
    assert response.json["message"] == "please use a different username"
    assert list(response.json["errors"]) == ["username"]


@pytest.mark.parametrize("email", ["alice@example.com", "ALICE@EXAMPLE.COM"])
def test_an_email_address_is_taken_in_any_case(client, alice, email):
    body = {"username": "other", "email": email, "password": PASSWORD}
    response = client.post("/api/users", json=body)
    assert response.status_code == 400
    assert response.json["message"] == "please use a different email address"
    assert list(response.json["errors"]) == ["email"]


@pytest.mark.parametrize("taken", [["username"], ["email"], ["username", "email"]])
def test_what_is_taken_and_a_weak_password_are_reported_together(client, alice, taken):
    body = {"username": "carol", "email": "carol@example.com", "password": "short"}
    body |= {name: {"username": "ALICE", "email": "Alice@example.com"}[name] for name in taken}
    response = client.post("/api/users", json=body)
    assert response.status_code == 400
    assert list(response.json["errors"]) == [*taken, "password"]
    assert response.json["message"].endswith("; password must be 8 to 256 characters long")


@pytest.mark.parametrize("name", ["a", "a" * 64, "A.b-c_9", "...", "_-"])
def test_valid_user_names_are_accepted(client, register, name):
    register(name, email="any@example.com")
    assert client.get("/api/users/me", headers=basic(name)).json["username"] == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 65,
        "a b",
        "-",
        "--all",
        "a\n",
        "\na",
        "a@b",
        "ä",
        "a/b",
        "a\u200b",
        "١",
        "a\0",
        "\ud800",
    ],
)
def test_invalid_user_names_are_refused(client, name):
    body = {"username": name, "email": "any@example.com", "password": PASSWORD}
    response = client.post("/api/users", json=body)
    assert response.status_code == 400
    assert list(response.json["errors"]) == ["username"]


@pytest.mark.parametrize(
    "email",
    [
        "",
        "alice",
        "alice@",
        "@example.com",
        "a b@example.com",
        "a@b\n.com",
        "a@-.com",
        "a@\ud800.com",
        "jürgen@example.com",
    ],
)
def test_invalid_email_addresses_are_refused(client, email):
    body = {"username": "alice", "email": email, "password": PASSWORD}
    response = client.post("/api/users", json=body)
    assert response.status_code == 400
    assert response.json["errors"] == {"email": response.json["errors"]["email"]}


LOCAL = [
    *("alice@localhost", "alice@server-1", "a.b+c@corp.local", "a@db.test", "A@LOCALHOST"),
    *("first.last@localhost", "alice@server-1.office.local"),
]


@pytest.mark.parametrize("email", LOCAL)
def test_an_address_at_a_local_host_is_accepted_if_the_setting_says_so(app, client, email):
    body = {"username": "alice", "email": email, "password": PASSWORD}
    response = client.post("/api/users", json=body)
    assert (response.status_code, list(response.json["errors"])) == (400, ["email"])
    app.config["EMAIL_ALLOW_LOCAL"] = True
    assert client.post("/api/users", json=body).status_code == 201
    name, _, host = email.partition("@")
    me = client.get("/api/users/me", headers=basic(email)).json
    assert me["email"] == f"{name}@{host.lower()}"


@pytest.mark.parametrize(
    "email", ["", "alice", "@localhost", "a@", "a@-x", "a@x..local", "a@.local", "a@1.2", "a@\n"]
)
def test_what_is_no_address_is_refused_with_local_hosts_too(app, client, email):
    app.config["EMAIL_ALLOW_LOCAL"] = True
    body = {"username": "alice", "email": email, "password": PASSWORD}
    response = client.post("/api/users", json=body)
    assert (response.status_code, list(response.json["errors"])) == (400, ["email"])


@pytest.mark.parametrize(("length", "status"), [(7, 400), (8, 201), (256, 201), (257, 400)])
def test_passwords_have_8_to_256_characters(client, length, status):
    password = ("üöäß" * 65)[:length]
    body = {"username": "alice", "email": "alice@example.com", "password": password}
    response = client.post("/api/users", json=body)
    assert response.status_code == status
    if status == 400:
        text = "must be 8 to 256 characters long"
        assert response.json["errors"] == {"password": [text]}
        assert response.json["message"] == f"password {text}"
    else:
        assert client.post("/api/tokens", auth=("alice", password)).status_code == 200


def test_the_minimum_password_length_is_a_setting(app, client):
    app.config["PASSWORD_MIN_LENGTH"] = 3
    body = {"username": "alice", "email": "alice@example.com", "password": "cat"}
    assert client.post("/api/users", json=body).status_code == 201


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_unknown_fields_change_nothing(client, alice, token, method):
    extra = {"id": 77, "token": "t", "password_hash": "x", "token_expiration": None, "last_seen": 0}
    if method == "POST":
        body = {"username": "bob", "email": "bob@example.com", "password": PASSWORD}
        user = client.post("/api/users", json=body | extra).json
        assert user["id"] != 77
        assert client.get("/api/users/me", headers=basic("bob")).status_code == 200
    else:
        before = client.get("/api/users/me", headers=bearer(token)).json
        extra["password"] = "another password"
        response = client.put(f"/api/users/{alice}", json=extra, headers=bearer(token))
        assert (response.status_code, response.json) == (200, before)
        assert client.get("/api/users/me", headers=basic("alice")).status_code == 200


def test_avatar_and_log_in_do_not_depend_on_the_spelling_of_the_email_address(
    app, client, register
):
    id = register("alice", email="Alice@BÜCHER.example")
    me = client.get("/api/users/me", headers=basic("alice")).json
    assert me["email"] == "Alice@bücher.example"
    digest = hashlib.sha256("alice@bücher.example".encode()).hexdigest()
    assert digest in me["_links"]["avatar"]
    with app.app_context():
        assert f"{digest}?d=identicon&s=36" in db.session.get(User, id).avatar(36)
    for login in ("alice@bücher.example", "ALICE@BÜCHER.EXAMPLE", "alice@xn--bcher-kva.example"):
        assert client.post("/api/tokens", headers=basic(login)).status_code == 200


def test_an_address_of_more_than_1000_characters_is_refused_without_being_parsed(
    client, alice, monkeypatch
):
    def parse(text, **_):
        parsed.append(len(text))
        raise EmailNotValidError

    parsed = []
    monkeypatch.setattr("app.models.login.validate_email", parse)
    for length in (1000, 1001, 60_000):
        address = "x" * (length - len("@example.com")) + "@example.com"
        body = {"username": "carol", "email": address, "password": PASSWORD}
        response = client.post("/api/users", json=body)
        assert (response.status_code, list(response.json["errors"])) == (400, ["email"])
    assert parsed == [1000]
    body = {"username": address, "password": PASSWORD}
    assert client.post("/api/tokens", json=body).status_code == 401
    assert parsed == [1000]


def test_a_user_whose_name_is_no_longer_valid_can_still_authenticate(app, client, register):
    for number, name in enumerate(["bob@home", "日本", "José\n"]):
        id = register(f"user{number}")
        with app.app_context():
            db.session.get(User, id).username = name
            db.session.commit()
        response = client.get("/api/tokens", headers=basic(name))
        assert response.status_code == 200
        assert response.headers["X-Username"] == quote(name)


# -- Reading ---------------------------------------------------------------------------


def test_a_user_sees_only_their_own_email_address(client, alice, bob, token):
    assert client.get(f"/api/users/{alice}", headers=bearer(token)).json["email"]
    assert client.get("/api/users/me", headers=bearer(token)).json["email"]
    assert "email" not in client.get(f"/api/users/{bob}", headers=bearer(token)).json
    items = client.get("/api/users", headers=bearer(token)).json["items"]
    assert ["email" in user for user in items] == [True, False]


def test_a_collection_is_paged(client, register, log_in):
    ids = [register(f"user{number}") for number in range(5)]
    headers = bearer(log_in("user0"))
    first = client.get("/api/users?per_page=2", headers=headers).json
    assert [user["id"] for user in first["items"]] == ids[:2]
    assert first["_meta"] == {"page": 1, "per_page": 2, "total_pages": 3, "total_items": 5}
    assert first["_links"] == {
        "self": "/api/users?page=1&per_page=2",
        "next": "/api/users?page=2&per_page=2",
        "prev": None,
    }
    last = client.get("/api/users?page=3&per_page=2", headers=headers).json
    assert [user["id"] for user in last["items"]] == ids[4:]
    assert last["_links"]["next"] is None
    assert last["_links"]["prev"] == "/api/users?page=2&per_page=2"


def test_a_page_is_in_the_order_of_ids_however_rows_are_stored(client, register, log_in):
    ids = [register(f"user{number}") for number in range(5)]
    headers = bearer(log_in("user0"))  # PostgreSQL writes the row anew, behind the others
    items = client.get("/api/users", headers=headers).json["items"]
    assert [user["id"] for user in items] == ids


def test_a_page_past_the_end_is_empty(client, token):
    response = client.get("/api/users?page=2147483647&per_page=100", headers=bearer(token))
    assert response.status_code == 200
    assert response.json["items"] == []
    assert response.json["_meta"]["total_items"] == 1


def test_the_total_is_correct_after_users_are_added_or_deleted_in_code(
    app, client, alice, bob, token
):
    with app.app_context():
        db.session.delete(db.session.get(User, bob))
        db.session.add_all([User(username=name, email=name) for name in ("carol", "dave")])
        db.session.commit()
    assert client.get("/api/users", headers=bearer(token)).json["_meta"]["total_items"] == 3


def test_the_total_is_correct_in_tables_made_by_create_all(config_class, tmp_path):
    uri = {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path}/app.db"}
    app = create_app(type("CreateAllConfig", (config_class,), uri))
    with app.app_context():
        db.create_all()
        db.session.add(User(username="susan", email="susan@example.com"))
        db.session.commit()
        assert User.page(1, 10).total == 1
        db.session.remove()
        db.engine.dispose()


def test_a_page_has_10_items_by_default(client, token):
    meta = client.get("/api/users", headers=bearer(token)).json["_meta"]
    assert (meta["page"], meta["per_page"]) == (1, 10)


@pytest.mark.parametrize("name", ["page", "per_page"])
@pytest.mark.parametrize(
    "value", ["0", "-1", str(2**63), "9" * 5000, "٣", "abc", "", "1.0", "+1", " 1", "1_0"]
)
def test_a_page_or_per_page_that_cannot_be_is_replaced_by_one_that_can(client, token, name, value):
    response = client.get("/api/users", query_string={name: value}, headers=bearer(token))
    expected = {
        **dict.fromkeys(("0", "-1"), (1, 1)),
        **dict.fromkeys(("+1", " 1"), (1, 1)),
        **dict.fromkeys((str(2**63), "9" * 5000), (2**31 - 1, 100)),
    }
    page, per_page = expected.get(value, (1, 10))  # the default for what is no number
    assert response.status_code == 200
    assert response.json["_meta"][name] == (page if name == "page" else per_page)


@pytest.mark.parametrize("per_page", ["101", "1000", "0" * 50 + "1000"])
def test_a_page_has_at_most_100_items(client, token, per_page):
    response = client.get(f"/api/users?per_page={per_page}", headers=bearer(token))
    assert response.json["_meta"]["per_page"] == 100
    assert response.json["_links"]["self"] == "/api/users?page=1&per_page=100"


@pytest.mark.parametrize(
    "id", ["0", "-1", "999999999", str(2**31), str(2**63), "9" * 5000, "٣", "abc", "1.0", "+1"]
)
def test_a_user_that_does_not_exist_is_404(client, token, id):
    response = client.get(f"/api/users/{id}", headers=bearer(token))
    assert response.status_code == 404
    assert set(response.json) == {"error", "message"}
    # Changing another user is 403, even if the id is unknown; an invalid id is 404.
    status = client.put(f"/api/users/{id}", headers=bearer(token)).status_code
    assert status == (403 if re.fullmatch("[0-9]{1,18}", id, re.ASCII) else 404)


def test_a_page_of_users_takes_three_statements_whatever_its_length(
    client, register, log_in, statements
):
    for number in range(30):
        register(f"user{number}")
    headers = bearer(log_in("user0"))
    counts = set()
    for per_page in (1, 10, 30):
        statements.clear()
        client.get(f"/api/users?per_page={per_page}", headers=headers)
        counts.add(len(statements))
    assert counts == {3}  # the token, the page, the total


# -- Changing --------------------------------------------------------------------------


def test_a_put_changes_only_the_fields_in_the_body(client, alice, token):
    response = client.put(f"/api/users/{alice}", json={"about_me": "Hi"}, headers=bearer(token))
    assert response.status_code == 200
    assert (response.json["username"], response.json["about_me"]) == ("alice", "Hi")
    changes = {"username": "Alicia", "email": "alicia@example.com", "about_me": None}
    user = client.put(f"/api/users/{alice}", json=changes, headers=bearer(token)).json
    assert {name: user[name] for name in changes} == changes
    assert client.get("/api/users/me", headers=bearer(token)).json == user
    assert client.post("/api/tokens", auth=("alicia@example.com", PASSWORD)).status_code == 200


def test_a_put_with_an_empty_object_changes_nothing(client, alice, token):
    before = client.get("/api/users/me", headers=bearer(token)).json
    assert client.put(f"/api/users/{alice}", json={}, headers=bearer(token)).json == before


@pytest.fixture
def imported(app, alice):
    """Return a function that gives Alice what no new user can have."""

    def imported(**columns):
        with app.app_context():
            db.session.execute(sa.update(User).where(User.id == alice).values(columns))
            db.session.commit()

    return imported


@pytest.mark.parametrize("name", ["Jane Doe", "jürgen", "jane@home", "Ж", "a" * 63 + "/"])
@pytest.mark.parametrize(
    "email", ["alice@example.com", "x@localhost", "Jane <j@x.y>", "jürgen@x.de"]
)
def test_what_an_imported_user_sends_back_unchanged_is_not_checked(
    client, alice, token, imported, name, email
):
    imported(username=name, email=email)
    path, headers = f"/api/users/{alice}", bearer(token)
    user = client.get(path, headers=headers).json
    changed = client.put(path, json=user | {"about_me": "Hi"}, headers=headers)
    assert (changed.status_code, changed.json) == (200, user | {"about_me": "Hi"})
    assert (user["username"], user["email"]) == (name, email)


@pytest.mark.parametrize(
    ("field", "value"),
    [("username", "Jane  Doe"), ("username", "jane doe"), ("email", "y@localhost")],
)
def test_what_an_imported_user_changes_is_checked(client, alice, token, imported, field, value):
    imported(username="Jane Doe", email="x@localhost")
    body = {"username": "Jane Doe", "email": "x@localhost", field: value}
    response = client.put(f"/api/users/{alice}", json=body, headers=bearer(token))
    assert (response.status_code, list(response.json["errors"])) == (400, [field])


def test_a_user_can_change_the_case_of_their_name(client, alice, token):
    changes = {"username": "ALICE", "email": "alice@example.com"}
    response = client.put(f"/api/users/{alice}", json=changes, headers=bearer(token))
    assert (response.status_code, response.json["username"]) == (200, "ALICE")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"username": "BOB"}, "please use a different username"),
        ({"email": "Bob@example.com"}, "please use a different email address"),
        ({"username": "bob", "email": "bob@example.com"}, "please use a different username"),
    ],
)
def test_a_user_cannot_take_the_name_or_email_address_of_another(
    client, alice, bob, token, changes, message
):
    changes["about_me"] = "not stored either"
    response = client.put(f"/api/users/{alice}", json=changes, headers=bearer(token))
    assert (response.status_code, response.json["message"]) == (400, message)
    me = client.get("/api/users/me", headers=bearer(token)).json
    assert (me["username"], me["email"], me["about_me"]) == ("alice", "alice@example.com", None)


@pytest.mark.parametrize("body", ["", "not json", "{}", '{"username": ""}', "[" * 100_000])
def test_changing_another_user_is_403_before_the_body_is_checked(client, bob, token, body):
    response = client.put(f"/api/users/{bob}", data=body, headers=bearer(token))
    assert response.status_code == 403
    assert response.json["error"] == "Forbidden"


def test_links_do_not_depend_on_the_host_header(client, alice, token):
    headers = bearer(token) | {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Prefix": "/evil",
    }
    assert "evil" not in client.get("/api/users", headers=headers).text
    for path in ("//api/users", "/api//users", "/api/users/"):
        # The test client would take the first one for a host.
        response = client.get(headers=headers, environ_overrides={"PATH_INFO": path})
        assert response.status_code == 404
        assert "evil" not in f"{response.headers}{response.text}"
    body = {"username": "bob", "email": "bob@example.com", "password": PASSWORD}
    response = client.post("/api/users", json=body, headers=headers)
    assert response.headers["Location"] == response.json["_links"]["self"]
    assert response.headers["Location"].startswith("/api/users/")


# -- Limits and privacy ----------------------------------------------------------------


def test_registrations_from_one_source_are_limited(app, client):
    app.config["REGISTRATION_LIMIT_PER_SOURCE"] = "3 per hour"

    def register(number, address="198.51.100.7", **fields):
        body = {"username": f"u{number}", "email": f"u{number}@example.com", "password": PASSWORD}
        # A header does not make another source of it.
        environ = {"REMOTE_ADDR": address, "HTTP_X_FORWARDED_FOR": f"192.0.2.{number}"}
        return client.post("/api/users", json=body | fields, environ_base=environ)

    assert [register(number, username="").status_code for number in range(5)] == [400] * 5
    assert [register(number).status_code for number in (1, 1, 2)] == [201, 400, 201]
    refused = register(3)
    assert refused.status_code == 429
    assert refused.json["message"].startswith("too many registrations; ")
    assert 1 <= int(refused.headers["Retry-After"]) <= 3600
    assert register(3, "198.51.100.8").status_code == 201


def test_registrations_with_a_weak_password_are_limited_too(app, client, alice):
    """They tell whether a name is taken."""
    app.config["REGISTRATION_LIMIT_PER_SOURCE"] = "3 per hour"
    body = {"username": "alice", "email": "new@example.com", "password": "x"}
    environ = {"REMOTE_ADDR": "198.51.100.7"}
    answers = [client.post("/api/users", json=body, environ_base=environ) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 429]


def test_avatars_off_removes_the_hash_of_the_email_address(client_of, alice, token):
    client = client_of(AVATARS="off")
    headers = bearer(token)
    client.post("/api/posts", json={"body": "Hello"}, headers=headers)  # microblog
    paths = ["/api/users/me", "/api/users"]
    paths += ["/api/posts", "/api/feed"]  # microblog
    for path in paths:
        response = client.get(path, headers=headers)
        assert response.status_code == 200
        assert "avatar" not in response.text
