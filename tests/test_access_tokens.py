"""Access tokens: made, used, listed and revoked; what each scope opens, and what none does."""

import re
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import create_app, db, tokens
from app.auth import any_auth
from app.models import AccessToken
from tests.helpers import PASSWORD, PUBLIC, Server, at_once, basic, bearer

DAY = 24 * 3600
INVALID = 'error="invalid_token", error_description="the token is not valid"'
EXPIRED = 'error="invalid_token", error_description="the token has expired"'


@pytest.fixture
def make(client, alice):
    """A new access token of Alice's, as the answer has it."""

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
    # Closed, as a server does once it has sent the answer.
    with client.get("/api/users/me", headers=bearer(text)) as response:
        return response.status_code


# -- Making ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["password", "login token"])
def test_a_token_is_handed_over_once(client, alice, token, way):
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
        "expires_in": 3600,
        "created": made["created"],
        "last_used": None,
        "_links": {"self": f"/api/access-tokens/{made['id']}"},
        "token": made["token"],
    }
    assert me(client, made["token"]) == 200
    assert client.get("/api/users/me", headers=basic(made["token"], "")).json["id"] == alice
    for path in (f"/api/access-tokens/{made['id']}", "/api/access-tokens"):
        assert made["token"] not in client.get(path, headers=headers).text


def test_a_token_lives_for_30_days_or_as_long_as_one_says(client, make):
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
    ],
)
def test_a_body_that_will_not_do_is_refused_with_the_field(client, alice, body, field):
    response = client.post("/api/access-tokens", json=body, headers=basic("alice"))
    assert response.status_code == 400
    assert list(response.json["errors"]) == [field]
    if field == "scope" and "scope" in body and isinstance(body["scope"], str):
        assert "read write introspect" in response.json["message"]


def test_two_live_tokens_of_a_user_have_two_names(client, make, bob):
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


def test_a_user_has_so_many_tokens_and_no_more_however_they_ask(app, client, alice, make):
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


def test_what_expired_long_ago_is_forgotten_when_one_is_made(app, make):
    make(name="old", expires_in=60)
    with time_machine.travel(datetime.now(UTC) + timedelta(days=29)):
        make(name="newer")
        with app.app_context():
            assert db.session.scalar(sa.select(sa.func.count(AccessToken.id))) == 2
    with time_machine.travel(datetime.now(UTC) + timedelta(days=31)):
        make(name="newest")
        with app.app_context():
            names = db.session.scalars(sa.select(AccessToken.name))
            assert set(names) == {"newer", "newest"}


def test_of_many_tokens_of_one_name_at_once_one_is_made(app, alice):
    def ask(_):
        body = {"name": "phone", "scope": "read"}
        return app.test_client().post("/api/access-tokens", json=body, headers=basic("alice"))

    assert sorted(answer.status_code for answer in at_once(8, ask)) == [201] + [400] * 7


# -- Listing and revoking --------------------------------------------------------------


def test_the_collection_has_ones_own_live_tokens(client, make, bob):
    ids = [make(name=f"token {number}")["id"] for number in range(3)]
    make(by=basic("bob"))
    make(name="short", expires_in=60)
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=61)):
        listed = client.get("/api/access-tokens?per_page=2", headers=basic("alice")).json
    assert [item["id"] for item in listed["items"]] == ids[:2]
    assert listed["_meta"] == {"page": 1, "per_page": 2, "total_pages": 2, "total_items": 3}
    assert listed["_links"]["next"] == "/api/access-tokens?page=2&per_page=2"


def test_another_users_token_is_not_there(client, make, bob):
    id = make()["id"]
    for method in ("GET", "DELETE"):
        response = client.open(f"/api/access-tokens/{id}", method=method, headers=basic("bob"))
        assert response.status_code == 404
    assert client.get(f"/api/access-tokens/{id}", headers=basic("alice")).status_code == 200


def test_revoking_one_device_leaves_the_others(server, register):
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
def test_logging_out_with_an_access_token_ends_that_one_alone(client, make, token, scope):
    others = make(name="other")["token"]
    text = make(scope=scope)["token"]
    assert client.delete("/api/tokens", headers=bearer(text)).status_code == 204
    assert [me(client, each) for each in (text, others, token)] == [401, 200, 200]


def test_a_token_tells_what_it_is(client, make):
    text = make(scope="write", expires_in=600)["token"]
    response = client.get("/api/tokens", headers=bearer(text))
    assert response.json["scope"] == response.headers["X-Scope"] == "write"
    assert 590 < response.json["expires_in"] <= 600
    assert response.json["user"]["username"] == "alice"


@pytest.mark.parametrize("end", ["password", "leaving", "revoke", "revoke --all", "set_password"])
def test_what_ends_every_token_ends_these_too(app, client, alice, make, end):
    text = make()["token"]
    runner = app.test_cli_runner()
    if end == "password":
        body = {"current_password": PASSWORD, "new_password": "battery staple"}
        client.put(f"/api/users/{alice}/password", json=body, headers=basic("alice"))
    elif end == "leaving":
        client.delete(f"/api/users/{alice}", headers=basic("alice"))
    elif end == "revoke":
        assert "1 token" in runner.invoke(args=["tokens", "revoke", "alice"]).output
    elif end == "revoke --all":
        assert "1 token" in runner.invoke(args=["tokens", "revoke", "--all"]).output
    else:
        runner.invoke(args=["users", "password", "alice"], input="battery staple\n")
    assert me(client, text) == 401
    runner.invoke(args=["users", "deactivate", "alice"])
    runner.invoke(args=["users", "activate", "alice"])
    assert me(client, text) == 401


# -- Scopes ----------------------------------------------------------------------------

# What each route takes; nothing is what only a password or the token of a log in opens.
ROUTES = {
    ("GET", "/api/users"): "read",
    ("GET", "/api/users/me"): "read",
    ("GET", "/api/users/1"): "read",
    ("PUT", "/api/users/1"): "write",
    ("PUT", "/api/users/1/password"): "",
    ("DELETE", "/api/users/1"): "",
    ("GET", "/api/users/1/followers"): "read",
    ("GET", "/api/users/1/following"): "read",
    ("GET", "/api/users/1/followed"): "read",
    ("PUT", "/api/users/me/following/1"): "write",
    ("DELETE", "/api/users/me/following/1"): "write",
    ("GET", "/api/users/1/posts"): "read",
    ("GET", "/api/posts"): "read",
    ("GET", "/api/feed"): "read",
    ("POST", "/api/posts"): "write",
    ("GET", "/api/posts/1"): "read",
    ("PUT", "/api/posts/1"): "write",
    ("DELETE", "/api/posts/1"): "write",
    ("GET", "/api/tokens"): "read write introspect",
    ("DELETE", "/api/tokens"): "read write introspect",
    ("PUT", "/api/tokens"): "",
    ("POST", "/api/tokens/introspect"): "introspect",
    ("POST", "/api/access-tokens"): "",
    ("GET", "/api/access-tokens"): "",
    ("GET", "/api/access-tokens/1"): "",
    ("DELETE", "/api/access-tokens/1"): "",
}
PASSWORD_ONLY = {("POST", "/api/tokens")}


def test_every_route_is_in_the_table(app):
    routes = {
        (method, re.sub("<int:.*?>", "1", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert routes == ROUTES.keys() | PUBLIC | PASSWORD_ONLY


def test_each_scope_opens_what_the_table_says(client, make, capsys):
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
def test_without_good_credentials_every_route_is_401(client, alice, headers, app):
    app.config["LOGIN_LIMIT_PER_SOURCE"] = app.config["LOGIN_LIMIT_PER_ACCOUNT"] = "1000 per hour"
    for method, path in ROUTES.keys() | PASSWORD_ONLY:
        assert client.open(path, method=method, headers=headers).status_code == 401


def test_an_expired_token_opens_nothing(client, make):
    text = make(scope="read write introspect", expires_in=60)["token"]
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=61)):
        for method, path in ROUTES:
            assert client.open(path, method=method, headers=bearer(text)).status_code == 401


def test_no_access_token_changes_what_one_logs_in_with(client, alice, make):
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


def test_a_route_that_does_not_say_who_may_use_it_is_refused(config_class):
    app = create_app(config_class)
    app.get("/forgotten")(lambda: "open to everybody")
    response = app.test_client().get("/forgotten")
    assert response.status_code == 403
    assert "auth_required" in response.json["message"]


def test_a_route_may_want_one_of_two_scopes_or_both(client_of, make):
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


# -- At rest and on the way ------------------------------------------------------------


def test_no_value_of_the_database_is_a_credential(app, client, make, token):
    texts = [make(name=f"token {number}")["token"] for number in range(3)]
    with app.app_context():
        values = {
            value if isinstance(value, str) else bytes(value).hex()
            for table in db.metadata.sorted_tables
            for row in db.session.execute(sa.select(table))
            for value in row
            if isinstance(value, str | bytes | memoryview)
        }
        raw = db.session.connection().exec_driver_sql('SELECT token FROM "user"').scalar()
        values |= {bytes(raw).hex(), bytes(raw).decode("latin-1")}
    values -= {token}  # which the model unseals with the key
    assert len(values) > 8
    app.config.update(LOGIN_LIMIT_PER_SOURCE="1000/hour", LOGIN_LIMIT_PER_ACCOUNT="1000/hour")
    for value in values:
        assert value not in texts
        # What a header can hold of it.
        assert me(client, re.sub("[^ -~]", "", value) or "x") == 401
        for login, password in ((value, ""), (value, value), ("alice", value)):
            headers = basic(login, password)
            assert client.get("/api/users/me", headers=headers).status_code == 401


def test_a_check_is_one_select(client, make, statements):
    text = make()["token"]
    me(client, text)
    statements.clear()
    assert me(client, text) == 200
    assert [statement.split()[0] for statement in statements] == ["SELECT"]
    assert "JOIN" in statements[0]


@pytest.mark.parametrize("text", ["mba_" + "A" * 36, "mba_", "mba_" + "x" * 8000])
def test_what_cannot_be_a_token_is_refused_without_asking(client, statements, text):
    response = client.get("/api/users/me", headers=bearer(text))
    assert response.status_code == 401
    assert INVALID in response.headers["WWW-Authenticate"]
    assert statements == []


def test_an_unknown_or_revoked_token_is_invalid_and_no_more_is_learned(client, make):
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


def test_a_use_is_noted_at_most_once_an_hour(client, make, statements):
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


def test_a_use_that_cannot_be_noted_neither_fails_nor_waits(app, client, make, config_class):
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
    me(client, text)
    with app.app_context():
        assert db.session.scalar(sa.select(AccessToken.last_used)) is not None


def test_after_a_use_was_noted_a_writer_waits_its_turn_as_before(app, client, make, config_class):
    with app.app_context():
        db.engine.dispose()  # one connection alone, that of this thread
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
