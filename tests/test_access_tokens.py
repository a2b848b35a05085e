"""Access tokens: create, use, list and revoke them; the routes that each scope opens."""

import base64
import hashlib
import re
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import create_app, db
from app.auth import any_auth
from app.models import AccessToken, User
from app.security import tokens
from tests.helpers import PASSWORD, Server, at_once, basic, bearer
from tests.routes import PASSWORD_ONLY, PUBLIC, ROUTES

DAY = 24 * 3600
INVALID = 'error="invalid_token", error_description="the token is not valid"'
EXPIRED = 'error="invalid_token", error_description="the token has expired"'


@pytest.fixture
def make(client, alice):
    """Return a function that creates an access token of Alice's and returns the answer."""

    def make(name="phone", scope="read write", by=None, **fields):
        response = client.post(
            "/api/access-tokens",
            json={"name": name, "scope": scope, **fields},
            headers=by or basic("alice"),
        )
        assert response.status_code == 201, response.text
        return response.json

    return make


def me(client, text):
    # Closed as by a server: `last_used` is updated when the response is closed.
    with client.get("/api/users/me", headers=bearer(text)) as response:
        return response.status_code


# -- Creating --------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["password", "login token"])
def test_the_text_of_an_access_token_is_shown_only_once(client, alice, token, way):
    headers = basic("alice") if way == "password" else bearer(token)
    body = {"name": "Phone 📱", "scope": "write read", "expires_in": 3600}
    response = client.post("/api/access-tokens", json=body, headers=headers)
    assert response.status_code == 201
    made = response.json
    assert response.headers["Location"] == f"/api/access-tokens/{made['id']}"
    assert response.headers["Cache-Control"] == "no-store"
    assert re.fullmatch(r"mba_[0-9A-Za-z]{36}", made["token"])
    assert made == {
        "id": made["id"],
        "name": "Phone 📱",
        "scope": "read write",
        "limit": None,
        "expires_in": 3600,
        "created": made["created"],
        "last_used": None,
        "previous_expires_in": None,
        "previous_last_used": None,
        "_links": {"self": f"/api/access-tokens/{made['id']}"},
        "token": made["token"],
    }
    assert me(client, made["token"]) == 200
    assert client.get("/api/users/me", headers=basic(made["token"], "")).json["id"] == alice
    for path in (f"/api/access-tokens/{made['id']}", "/api/access-tokens"):
        assert made["token"] not in client.get(path, headers=headers).text


def test_an_access_token_expires_after_30_days_or_after_expires_in(client, make):
    for fields, seconds in (({}, 30 * DAY), ({"expires_in": 60}, 60)):
        made = make(name=str(seconds), **fields)
        assert made["expires_in"] == seconds
        now = datetime.now(UTC)
        with time_machine.travel(now + timedelta(seconds=seconds - 5)):
            assert me(client, made["token"]) == 200
        with time_machine.travel(now + timedelta(seconds=seconds + 5)):
            response = client.get("/api/users/me", headers=bearer(made["token"]))
            assert response.status_code == 401
            assert EXPIRED in response.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scope": "read"}, "name"),
        ({"name": "", "scope": "read"}, "name"),
        ({"name": "x" * 65, "scope": "read"}, "name"),
        ({"name": 7, "scope": "read"}, "name"),
        ({"name": "a\0", "scope": "read"}, "name"),
        ({"name": "two\nlines", "scope": "read"}, "name"),
        ({"name": "line\n", "scope": "read"}, "name"),
        ({"name": "line\u2028", "scope": "read"}, "name"),
        ({"name": "\x1b[2J", "scope": "read"}, "name"),
        ({"name": "\u202eesrever", "scope": "read"}, "name"),
        ({"name": "zero\u200bwidth", "scope": "read"}, "name"),
        ({"name": "x"}, "scope"),
        ({"name": "x", "scope": ""}, "scope"),
        ({"name": "x", "scope": "read admin"}, "scope"),
        ({"name": "x", "scope": "account"}, "scope"),
        ({"name": "x", "scope": ["read"]}, "scope"),
        ({"name": "x", "scope": "read", "expires_in": 59}, "expires_in"),
        ({"name": "x", "scope": "read", "expires_in": 365 * DAY + 1}, "expires_in"),
        ({"name": "x", "scope": "read", "expires_in": "3600"}, "expires_in"),
        ({"name": "x", "scope": "read", "expires_in": True}, "expires_in"),
        ({"name": "x", "scope": "read", "expires_in": 3600.5}, "expires_in"),
        ({"name": "x", "scope": "read", "expires_in": None}, "expires_in"),
        ({"name": "x", "scope": "read", "expires": 60}, "expires"),
        ({"name": "x", "scope": "read", "\ud800": 60}, "\ud800"),
        ({"name": "x", "scope": "read", "limit": ""}, "limit"),
        ({"name": "x", "scope": "read", "limit": 100}, "limit"),
        ({"name": "x", "scope": "read", "limit": "0 per minute"}, "limit"),
        ({"name": "x", "scope": "read", "limit": "6001 per minute"}, "limit"),
        ({"name": "x", "scope": "read", "limit": "101 per second"}, "limit"),
        ({"name": "x", "scope": "read", "limit": "6001 per hour"}, "limit"),
        ({"name": "x", "scope": "read", "limit": "1 per minute; 2 per hour"}, "limit"),
        ({"name": "x", "scope": "read", "limit": "1 per 1000 days"}, "limit"),
        ({"name": "x", "scope": "read", "limit": "1 per minute\n"}, "limit"),
    ],
)
def test_an_invalid_body_is_refused_and_the_field_named(client, alice, body, field):
    response = client.post("/api/access-tokens", json=body, headers=basic("alice"))
    assert response.status_code == 400
    assert list(response.json["errors"]) == [field]
    if field == "scope" and "scope" in body and isinstance(body["scope"], str):
        assert "read write introspect" in response.json["message"]
    if field == "limit" and isinstance(body["limit"], str):
        assert "such as 100 per minute" in response.json["message"]
        assert "at most 6000 per minute" in response.json["message"]


def test_the_name_of_a_live_access_token_is_unique_per_user(client, make, bob):
    first = make()
    body = {"name": "phone", "scope": "read"}
    response = client.post("/api/access-tokens", json=body, headers=basic("alice"))
    assert response.status_code == 400
    assert list(response.json["errors"]) == ["name"]
    assert make(by=basic("bob"))["name"] == "phone"
    client.delete(f"/api/access-tokens/{first['id']}", headers=basic("alice"))
    make(expires_in=60)
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=61)):
        make()


def test_concurrent_requests_cannot_exceed_the_limit_of_access_tokens(app, client, alice, make):
    app.config["ACCESS_TOKENS_PER_USER"] = 5

    def ask(number):
        body = {"name": f"token {number}", "scope": "read"}
        return app.test_client().post("/api/access-tokens", json=body, headers=basic("alice"))

    answers = at_once(12, ask)
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [400] * 7
    refused = next(answer for answer in answers if answer.status_code == 400)
    assert "5 access tokens" in refused.json["message"]
    listed = client.get("/api/access-tokens", headers=basic("alice")).json
    assert listed["_meta"]["total_items"] == 5


def test_an_access_token_is_answered_without_reading_it_after_the_commit(make, statements):
    make()  # a SELECT that fails then would leave a token whose text nobody has
    assert statements[-1].startswith("INSERT INTO ")


def test_creating_an_access_token_deletes_those_that_expired_30_days_ago(app, client, bob, make):
    make(name="old", expires_in=60)
    make(name="long", expires_in=60 * 24 * 3600)
    body = {"name": "Bob's", "scope": "read", "expires_in": 60}
    assert client.post("/api/access-tokens", json=body, headers=basic("bob")).status_code == 201
    with time_machine.travel(datetime.now(UTC) + timedelta(days=29)):
        make(name="newer")
        with app.app_context():
            assert db.session.scalar(sa.select(sa.func.count(AccessToken.id))) == 4
    with time_machine.travel(datetime.now(UTC) + timedelta(days=31)):
        make(name="newest")
        with app.app_context():
            names = db.session.scalars(sa.select(AccessToken.name))
            assert set(names) == {"Bob's", "long", "newer", "newest"}


def test_few_tokens_are_deleted_with_each_that_is_made(app, make):
    for number in range(12):
        make(name=f"old {number}", expires_in=60)
    for days, left in ((31, 3), (32, 1 + 1)):  # those that are left, and those that are made
        with time_machine.travel(datetime.now(UTC) + timedelta(days=days)):
            make(name=f"new {days}")
            with app.app_context():
                assert db.session.scalar(sa.select(sa.func.count(AccessToken.id))) == left


def test_the_user_with_the_id_0_is_not_everybody(app, make):
    make()
    with app.app_context():
        assert (AccessToken.revoke_all(0), User.revoke_tokens(0)) == (0, 0)
        assert AccessToken.revoke_all() == 1


def test_concurrent_requests_create_only_one_access_token_of_a_name(app, alice):
    def ask(_):
        body = {"name": "phone", "scope": "read"}
        return app.test_client().post("/api/access-tokens", json=body, headers=basic("alice"))

    assert sorted(answer.status_code for answer in at_once(8, ask)) == [201] + [400] * 7


def test_creating_an_access_token_does_not_change_last_seen(client, alice, make):
    def last_seen():
        return client.get("/api/users/me", headers=basic("alice")).json["last_seen"]

    before = last_seen()
    make()
    assert last_seen() == before


def test_the_name_of_an_access_token_may_be_in_any_script(make):
    for name in ("Phone 📱", "Familie 👨\u200d👩\u200d👧", "گوشی\u200cمن", "téléphone"):
        assert make(name=name)["name"] == name


# -- Listing and revoking --------------------------------------------------------------


def test_the_collection_contains_only_live_access_tokens_of_the_user(client, make, bob):
    make(name="short", expires_in=60)
    # By id, and not in the order of their ends.
    ids = [make(name=f"token {end}", expires_in=end)["id"] for end in (900, 300, 600)]
    make(by=basic("bob"))
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=61)):
        listed = client.get("/api/access-tokens?per_page=2", headers=basic("alice")).json
    assert [item["id"] for item in listed["items"]] == ids[:2]
    assert listed["_meta"] == {"page": 1, "per_page": 2, "total_pages": 2, "total_items": 3}
    assert listed["_links"]["next"] == "/api/access-tokens?page=2&per_page=2"


def test_an_access_token_of_another_user_is_404(client, make, bob):
    id = make()["id"]
    for method in ("GET", "DELETE"):
        response = client.open(f"/api/access-tokens/{id}", method=method, headers=basic("bob"))
        assert response.status_code == 404
    assert client.get(f"/api/access-tokens/{id}", headers=basic("alice")).status_code == 200


def test_revoking_one_access_token_leaves_the_other_tokens_valid(server, register):
    register("alice")
    settings = {**server.environment, "PORT": "0"}
    with Server(**settings) as other:
        made = {
            name: server.request(
                "POST",
                "/api/access-tokens",
                json_body={"name": name, "scope": "read"},
                headers=basic("alice"),
            ).json
            for name in ("phone", "laptop")
        }
        login = server.request("POST", "/api/tokens", headers=basic("alice")).json["token"]

        def statuses():
            texts = [made["phone"]["token"], made["laptop"]["token"], login]
            return [
                each.request("GET", "/api/users/me", headers=bearer(text)).status
                for text in texts
                for each in (server, other)
            ]

        assert statuses() == [200] * 6
        path = f"/api/access-tokens/{made['phone']['id']}"
        assert server.request("DELETE", path, headers=basic("alice")).status == 204
        assert statuses() == [401, 401, 200, 200, 200, 200]


@pytest.mark.parametrize("scope", ["read", "write", "introspect"])
def test_logging_out_with_an_access_token_revokes_only_that_token(client, make, token, scope):
    others = make(name="other")["token"]
    text = make(scope=scope)["token"]
    assert client.delete("/api/tokens", headers=bearer(text)).status_code == 204
    assert [me(client, each) for each in (text, others, token)] == [401, 200, 200]


def test_get_tokens_returns_scope_expiry_and_user_of_an_access_token(client, make):
    text = make(scope="write", expires_in=600)["token"]
    response = client.get("/api/tokens", headers=bearer(text))
    assert response.json["scope"] == response.headers["X-Scope"] == "write"
    assert 590 < response.json["expires_in"] <= 600
    assert response.json["user"]["username"] == "alice"


@pytest.mark.parametrize("end", ["password", "leaving", "revoke", "revoke --all", "set_password"])
def test_a_password_change_deactivation_or_revoke_command_ends_access_tokens(
    app, client, alice, bob, make, end
):
    text, of_bob = make()["token"], make(by=basic("bob"))["token"]
    runner = app.test_cli_runner()
    if end == "password":
        body = {"current_password": PASSWORD, "new_password": "battery staple"}
        client.put(f"/api/users/{alice}/password", json=body, headers=basic("alice"))
    elif end == "leaving":
        client.delete(f"/api/users/{alice}", headers=basic("alice"))
    elif end == "revoke":
        assert "1 token" in runner.invoke(args=["tokens", "revoke", "alice"]).output
    elif end == "revoke --all":
        assert "2 tokens" in runner.invoke(args=["tokens", "revoke", "--all"]).output
    else:
        runner.invoke(args=["users", "password", "alice"], input="battery staple\n")
    assert me(client, text) == 401
    assert me(client, of_bob) == (401 if end == "revoke --all" else 200)
    runner.invoke(args=["users", "deactivate", "alice"])
    runner.invoke(args=["users", "activate", "alice"])
    assert me(client, text) == 401


# -- Scopes ----------------------------------------------------------------------------


def test_every_route_is_in_the_table(app):
    routes = {
        (method, re.sub("<int:.*?>", "1", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert routes == ROUTES.keys() | PUBLIC | PASSWORD_ONLY


def test_each_scope_opens_exactly_the_routes_in_the_table(client, make, capsys):
    lines = [f"{'':36}{'read':>8}{'write':>8}{'introspect':>12}"]
    for (method, path), needed in ROUTES.items():
        line = f"{method + ' ' + path:36}"
        for scope, width in (("read", 8), ("write", 8), ("introspect", 12)):
            made = make(name=f"{scope} {method} {path}", scope=scope)
            response = client.open(path, method=method, headers=bearer(made["token"]))
            opens = scope in needed.split()
            line += f"{'yes' if opens else '-':>{width}}"
            challenge = response.headers.get("WWW-Authenticate")
            if opens:
                assert challenge is None, f"{scope} does not open {method} {path}"
            else:
                assert response.status_code == 403, f"{scope} opens {method} {path}"
                named = f', scope="{needed}"' if needed else ""
                realm = 'Bearer realm="Microblog API"'
                assert challenge == f'{realm}, error="insufficient_scope"{named}'
                assert needed in response.json["message"]
            made_path = f"/api/access-tokens/{made['id']}"
            client.delete(made_path, headers=basic("alice"))
        lines.append(line)
    with capsys.disabled():
        print("", *lines, sep="\n")


@pytest.mark.parametrize("headers", [{}, bearer("x"), basic("alice", "wrong one")])
def test_every_route_refuses_missing_or_invalid_credentials_with_401(client, alice, headers, app):
    app.config["LOGIN_LIMIT_PER_SOURCE"] = app.config["LOGIN_LIMIT_PER_ACCOUNT"] = "1000 per hour"
    for method, path in ROUTES.keys() | PASSWORD_ONLY:
        assert client.open(path, method=method, headers=headers).status_code == 401


def test_an_expired_access_token_is_refused_by_every_route(client, make):
    text = make(scope="read write introspect", expires_in=60)["token"]
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=61)):
        for method, path in ROUTES:
            assert client.open(path, method=method, headers=bearer(text)).status_code == 401


def test_an_access_token_cannot_change_the_user_name_or_email_address(client, alice, make):
    headers = bearer(make(scope="read write introspect")["token"])
    path = f"/api/users/{alice}"
    for changes in ({"email": "evil@example.com"}, {"username": "evil", "about_me": "x"}):
        response = client.put(path, json=changes, headers=headers)
        assert response.status_code == 403
        assert 'error="insufficient_scope"' in response.headers["WWW-Authenticate"]
    assert client.put(path, json={"about_me": "Hi"}, headers=headers).json["about_me"] == "Hi"
    assert client.get("/api/users/me", headers=basic("alice")).json["username"] == "alice"


def test_an_access_token_does_not_log_in(client, make):
    text = make(scope="read write introspect")["token"]
    for headers in (bearer(text), basic(text, ""), basic(text, PASSWORD)):
        assert client.post("/api/tokens", headers=headers).status_code == 401


def test_a_route_without_auth_required_or_public_answers_403(config_class):
    app = create_app(config_class)
    app.get("/forgotten")(lambda: "open to everybody")
    response = app.test_client().get("/forgotten")
    assert response.status_code == 403
    assert "auth_required" in response.json["message"]


def test_a_route_can_require_one_of_two_scopes_or_both(client_of, make):
    client = client_of()
    app = client.application
    for path, roles in (("either", ["write", "introspect"]), ("both", [["write", "introspect"]])):
        app.get(f"/{path}", endpoint=path)(app.auth_required(any_auth, roles=roles)(lambda: ""))
    for scope, either, both in (
        ("read", 403, 403),
        ("write", 200, 403),
        ("introspect", 200, 403),
        ("write introspect", 200, 200),
    ):
        headers = bearer(make(name=scope, scope=scope)["token"])
        assert client.get("/either", headers=headers).status_code == either
        response = client.get("/both", headers=headers)
        assert response.status_code == both
        if both == 403:
            assert 'scope="write introspect"' in response.headers["WWW-Authenticate"]


# -- Stored and presented tokens -------------------------------------------------------


def test_the_database_has_a_digest_of_an_access_token(app, make):
    text = make(name="script")["token"]
    with app.app_context():
        digest = db.session.scalar(sa.select(AccessToken.digest))
    assert digest == hashlib.sha256(text.encode()).digest()


def test_no_value_in_the_database_works_as_a_credential(app, client, make, token):
    texts = [make(name=f"token {number}")["token"] for number in range(3)]
    body = {"device": "phone"}
    texts.append(client.post("/api/tokens", json=body, headers=basic("alice")).json["token"])
    with app.app_context():
        found = [
            value
            for table in db.metadata.sorted_tables
            for row in db.session.execute(sa.select(table))
            for value in row
            if isinstance(value, str | bytes | memoryview)
        ]
        found.append(db.session.connection().exec_driver_sql('SELECT token FROM "user"').scalar())
    found.remove(token)  # which the model unseals with the key
    values = {value for value in found if isinstance(value, str)}
    for value in map(bytes, (value for value in found if not isinstance(value, str))):
        values |= {value.hex(), value.decode("latin-1"), base64.b64encode(value).decode()}
    assert len(values) > 20
    app.config.update(LOGIN_LIMIT_PER_SOURCE="1000/hour", LOGIN_LIMIT_PER_ACCOUNT="1000/hour")
    for value in values:
        assert value not in texts
        # A header can contain only the printable ASCII characters.
        assert me(client, re.sub("[^ -~]", "", value) or "x") == 401
        for login, password in ((value, ""), (value, value), ("alice", value)):
            headers = basic(login, password)
            assert client.get("/api/users/me", headers=headers).status_code == 401


def test_an_access_token_is_checked_with_one_select(client, make, statements):
    text = make()["token"]
    me(client, text)
    statements.clear()
    assert me(client, text) == 200
    assert [statement.split()[0] for statement in statements] == ["SELECT"]
    assert "JOIN" in statements[0]


@pytest.mark.parametrize("text", ["mba_" + "A" * 36, "mba_", "mba_" + "x" * 8000])
def test_a_malformed_access_token_is_refused_without_a_database_query(client, statements, text):
    response = client.get("/api/users/me", headers=bearer(text))
    assert response.status_code == 401
    assert INVALID in response.headers["WWW-Authenticate"]
    assert statements == []


def test_unknown_and_revoked_access_tokens_get_the_same_challenge(client, make):
    made = make()
    client.delete(f"/api/access-tokens/{made['id']}", headers=basic("alice"))
    answers = [
        client.get("/api/users/me", headers=bearer(text))
        for text in (made["token"], tokens.make(tokens.ACCESS_PREFIX))
    ]
    for answer in answers:
        assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})
        assert INVALID in answer.headers["WWW-Authenticate"]


# -- Last used -------------------------------------------------------------------------


def test_last_used_is_updated_at_most_once_an_hour(client, make, statements):
    made = make()
    path = f"/api/access-tokens/{made['id']}"

    def writes():
        return sum(statement.startswith("UPDATE access_token") for statement in statements)

    statements.clear()
    me(client, made["token"])
    noted = client.get(path, headers=basic("alice")).json["last_used"]
    assert datetime.now(UTC) - datetime.fromisoformat(noted) < timedelta(seconds=20)
    for _ in range(5):
        me(client, made["token"])
    assert writes() == 1
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=61)):
        me(client, made["token"])
    assert writes() == 2


def test_a_database_lock_neither_fails_nor_delays_the_use_of_an_access_token(
    app, client, make, config_class, caplog
):
    caplog.set_level("INFO", app.logger.name)
    text = make()["token"]
    uri = sa.make_url(config_class.SQLALCHEMY_DATABASE_URI)
    if uri.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(uri.database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            uses_at_once(client, text)
            other.execute("ROLLBACK")
    else:
        engine = sa.create_engine(uri)
        with engine.begin() as other:
            other.execute(sa.text("SELECT * FROM access_token FOR UPDATE"))
            uses_at_once(client, text)
        engine.dispose()
    with app.app_context():
        assert db.session.scalar(sa.select(AccessToken.last_used)) is None
    assert "the use of a token is not noted" in caplog.messages
    me(client, text)
    with app.app_context():
        assert db.session.scalar(sa.select(AccessToken.last_used)) is not None


def test_updating_last_used_does_not_change_the_lock_timeout_of_the_connection(
    app, client, make, config_class
):
    with app.app_context():
        db.engine.dispose()  # leaves the pool with the one connection of this thread
    me(client, make()["token"])
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            timeout = db.session.connection().exec_driver_sql("PRAGMA busy_timeout").scalar()
            assert timeout == 10_000  # milliseconds
        else:
            assert db.session.scalar(sa.text("SHOW lock_timeout")) == "0"


def uses_at_once(client, text):
    done = threading.Event()

    def use():
        for _ in range(3):
            assert me(client, text) == 200
        done.set()

    thread = threading.Thread(target=use)
    thread.start()
    assert done.wait(3)
    thread.join()
