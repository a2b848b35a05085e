"""`/api/admin`: what administrators do to other users, and who may."""

import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import db
from app.models import User, activation, grant_role
from tests.conftest import is_full_scan
from tests.helpers import at_once, basic, bearer
from tests.routes import ROUTES

ADMIN = [route for route in ROUTES if route[1].startswith("/api/admin/")]


@pytest.fixture
def root(app, register):
    """The id of the administrator."""
    id = register("root")
    with app.app_context():
        grant_role(db.session.get(User, id), "admin")
        db.session.commit()
    return id


@pytest.fixture
def admin(root, log_in):
    """The headers of an administrator who has just logged in."""
    return bearer(log_in("root"))


def names(response):
    assert response.status_code == 200, response.text
    return [user["username"] for user in response.json["items"]]


# -- Who may -----------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ADMIN)
def test_only_the_role_admin_opens_a_route(client, alice, token, method, path):
    for headers in (bearer(token), basic("alice")):
        refused = client.open(path, method=method, headers=headers)
        assert (refused.status_code, refused.json["message"]) == (403, "this takes the role admin")


@pytest.mark.parametrize(("method", "path"), ADMIN)
def test_a_log_in_that_is_not_fresh_opens_no_route(app, client, alice, admin, method, path):
    app.config["FRESH_LOGIN_SECONDS"] = 600
    real = path.replace("users/1", f"users/{alice}")
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=30)):
        refused = client.open(real, method=method, headers=admin)
        assert refused.status_code == 401
        challenge = refused.headers["WWW-Authenticate"]
        assert 'error="insufficient_user_authentication"' in challenge
        assert client.open(real, method=method, headers=basic("root")).status_code in {200, 204}


@pytest.mark.parametrize(("method", "path"), ADMIN)
def test_an_access_token_of_an_administrator_opens_no_route(client, root, method, path):
    body = {"name": "script", "scope": "read write introspect"}
    made = client.post("/api/access-tokens", json=body, headers=basic("root")).json
    refused = client.open(path, method=method, headers=bearer(made["token"]))
    assert refused.status_code == 403
    assert "not an access token" in refused.json["message"]


@pytest.mark.parametrize(("method", "path"), [route for route in ADMIN if "users/1" in route[1]])
def test_an_unknown_user_is_404(client, admin, method, path):
    unknown = path.replace("users/1", "users/999999")
    assert client.open(unknown, method=method, headers=admin).status_code == 404


# -- Find users --------------------------------------------------------------------------


def test_an_administrator_reads_all_users_with_their_addresses(client, alice, root, admin):
    client.delete(f"/api/users/{alice}", headers=basic("alice"))
    answer = client.get("/api/admin/users?per_page=1", headers=admin)
    assert answer.json["_meta"]["total_items"] == 2
    assert answer.json["_links"]["next"] == "/api/admin/users?page=2&per_page=1"
    (first,) = answer.json["items"]
    one = client.get(f"/api/admin/users/{alice}", headers=admin).json
    assert one == first
    assert datetime.fromisoformat(one.pop("deactivated_at")) <= datetime.now(UTC)
    assert one.pop("last_seen")
    assert one.pop("password_changed_at")
    path = f"/api/admin/users/{alice}"
    assert one == {
        "id": alice,
        "username": "alice",
        "email": "alice@example.com",
        "email_verified": False,
        "roles": [],
        "_links": {
            "self": path,
            "deactivation": f"{path}/deactivation",
            "sessions": f"{path}/sessions",
        },
    }
    me = client.get(f"/api/admin/users/{root}", headers=admin).json
    assert (me["roles"], me["deactivated_at"]) == (["admin"], None)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("al", ["alice", "Al-bert", "bob"]),
        ("AL", ["alice", "Al-bert", "bob"]),
        ("alice", ["alice"]),
        ("al-", ["Al-bert"]),
        ("al_", []),
        ("%", []),
        ("_", ["_under"]),
        ("lice", []),
        ("alison@", ["bob"]),
        ("x'\"; --", []),
        ("root@example.com", ["root"]),
        ("", None),
        ("a" * 255, None),
        ("\0", None),
    ],
)
def test_a_search_finds_how_a_name_or_an_address_begins(
    client, alice, register, admin, search, expected
):
    register("Al-bert", email="einstein@example.com")
    register("bob", email="alison@example.com")
    register("_under", email="u@example.com")
    answer = client.get("/api/admin/users", query_string={"search": search}, headers=admin)
    if expected is None:
        assert answer.status_code == 400
        assert list(answer.json["errors"]) == ["search"]
        return
    by_id = ["root", "alice", "Al-bert", "bob", "_under"]
    assert sorted(names(answer), key=by_id.index) == sorted(expected, key=by_id.index)
    assert [one["id"] for one in answer.json["items"]] == sorted(
        one["id"] for one in answer.json["items"]
    )
    assert answer.json["_meta"]["total_items"] == len(expected)


def test_a_search_goes_on_at_its_links(client, register, admin):
    for number in range(5):
        register(f"user&{number}".replace("&", "."))
    answer = client.get("/api/admin/users?search=USER.&per_page=2", headers=admin)
    seen = names(answer)
    while answer.json["_links"]["next"]:
        answer = client.get(answer.json["_links"]["next"], headers=admin)
        seen += names(answer)
    assert seen == [f"user.{number}" for number in range(5)]


def test_a_search_reads_no_whole_table(client, register, admin, plans, statements):
    for number in range(30):
        register(f"user{number}")
    plans.clear()
    statements.clear()
    assert len(names(client.get("/api/admin/users?search=user1", headers=admin))) == 10
    client.get("/api/admin/users", headers=admin)
    client.get("/api/admin/users/1", headers=admin)
    assert len(plans) >= 6
    for statement, plan in plans:
        assert not is_full_scan(statement, plan), f"{statement}\n{plan}"


# -- Deactivate, activate ----------------------------------------------------------------


def test_an_administrator_deactivates_and_activates_a_user(
    client, alice, token, root, admin, events
):
    path = f"/api/admin/users/{alice}/deactivation"
    for _ in range(2):  # the second changes nothing
        assert client.put(path, headers=admin).status_code == 204
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 401
    assert client.get(f"/api/users/{alice}", headers=admin).status_code == 404
    for _ in range(2):
        assert client.delete(path, headers=admin).status_code == 204
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200
    done = [line for line in events() if line["by"] is not None]
    assert [(line["event"], line["user_id"], line["by"]) for line in done] == [
        ("deactivated", alice, root),
        ("activated", alice, root),
    ]
    assert all(line["by"] is None for line in events() if line["event"] == "log_in")


def test_an_administrator_changes_nobody_on_the_routes_of_users(client, alice, root, admin):
    for method, path, body in (
        ("PUT", f"/api/users/{alice}", {"about_me": "x"}),
        ("PUT", f"/api/users/{alice}/password", {"current_password": "x", "new_password": "y"}),
        ("DELETE", f"/api/users/{alice}", None),
    ):
        assert client.open(path, method=method, json=body, headers=admin).status_code == 403
    for id in (alice, root):
        answer = client.get(f"/api/users/{id}", headers=admin).json
        assert answer["about_me"] is None


def test_administrators_cannot_deactivate_themselves_here(client, root, admin):
    refused = client.put(f"/api/admin/users/{root}/deactivation", headers=admin)
    assert refused.status_code == 400
    assert refused.json["message"].startswith("you cannot deactivate yourself here")
    assert client.get("/api/users/me", headers=admin).status_code == 200


@pytest.mark.parametrize(
    ("method", "noun"),
    [("PUT", "deactivation"), ("DELETE", "deactivation"), ("DELETE", "sessions")],
)
def test_administrators_who_act_on_each_other_at_once_do_not_deadlock(
    app, register, log_in, monkeypatch, method, noun
):
    # The lock of a table comes first, which would keep one of them waiting from the beginning.
    monkeypatch.setattr(activation, "before_switch", [])
    ids, tokens = [], []
    for name in ("one", "two"):
        ids.append(register(name))
        with app.app_context():
            grant_role(db.session.get(User, ids[-1]), "admin")
            db.session.commit()
        tokens.append(log_in(name))
    both = threading.Barrier(2)

    def wait_for_the_other(_connection, _cursor, statement, *_):
        if "pg_advisory_xact_lock(" in statement:
            with suppress(threading.BrokenBarrierError):  # the other one waits for this lock
                both.wait(0.5)

    def act(number):
        path = f"/api/admin/users/{ids[1 - number]}/{noun}"
        headers = bearer(tokens[number])
        return app.test_client().open(path, method=method, headers=headers).status_code

    with app.app_context():
        engine = db.engine
    sa.event.listen(engine, "after_cursor_execute", wait_for_the_other)
    try:
        statuses = at_once(2, act)
    finally:
        sa.event.remove(engine, "after_cursor_execute", wait_for_the_other)
    # Each ends the log in of the other, except by an activation, which changes nothing.
    is_activation = (method, noun) == ("DELETE", "deactivation")
    assert sorted(statuses) == ([204, 204] if is_activation else [204, 401])


# -- End log ins -------------------------------------------------------------------------


def test_all_log_ins_of_a_user_end_and_access_tokens_stay(
    client, alice, bob, token, root, admin, events
):
    device, of_bob = (
        client.post("/api/tokens", json={"device": "phone"}, headers=basic(name)).json["token"]
        for name in ("alice", "bob")
    )
    body = {"name": "script", "scope": "read"}
    script = client.post("/api/access-tokens", json=body, headers=basic("alice")).json
    assert client.delete(f"/api/admin/users/{alice}/sessions", headers=admin).status_code == 204
    for text, status in ((token, 401), (device, 401), (script["token"], 200), (of_bob, 200)):
        assert client.get("/api/users/me", headers=bearer(text)).status_code == status
    assert client.get("/api/users/me", headers=admin).status_code == 200
    line = events()[-1]
    assert (line["event"], line["user_id"], line["by"]) == ("token_revoked", alice, root)


def test_administrators_may_end_their_own_log_ins(client, root, admin):
    assert client.delete(f"/api/admin/users/{root}/sessions", headers=admin).status_code == 204
    assert client.get("/api/users/me", headers=admin).status_code == 401
