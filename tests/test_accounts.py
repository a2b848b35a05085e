"""Changing one's password, leaving, and what then becomes of tokens, posts and followers."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine
from werkzeug.security import generate_password_hash

from app import db
from app.models import Follow, OutdatedError, User
from tests.helpers import PASSWORD, Server, basic, bearer

NEW = "battery staple"


@pytest.fixture
def change_password(client):
    """Changes a user's password; the body is made of the other arguments."""

    def change_password(id, headers, current=PASSWORD, new=NEW):
        body = {"current_password": current, "new_password": new}
        return client.put(f"/api/users/{id}/password", json=body, headers=headers)

    return change_password


@pytest.fixture
def leave(client):
    def leave(id, headers):
        response = client.delete(f"/api/users/{id}", headers=headers)
        assert (response.status_code, response.data) == (204, b"")

    return leave


# -- The password ----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["Bearer", "Basic with the token", "password"])
def test_a_new_password_ends_every_token_and_opens_the_account(
    client, change_password, alice, token, way
):
    headers = {
        "Bearer": bearer(token),
        "Basic with the token": basic(token, ""),
        "password": basic("alice"),
    }[way]
    response = change_password(alice, headers)
    assert (response.status_code, response.data) == (204, b"")
    for old in (bearer(token), basic(token, ""), basic("alice")):
        assert client.get("/api/users/me", headers=old).status_code == 401
    assert client.get("/api/users/me", headers=basic("alice", NEW)).status_code == 200
    new = client.post("/api/tokens", headers=basic("alice", NEW)).json["token"]
    assert new != token


def test_a_wrong_current_password_is_403_and_changes_nothing(client, change_password, alice, token):
    response = change_password(alice, bearer(token), current="not the password")
    assert response.status_code == 403
    assert response.json == {"error": "Forbidden", "message": "the current password is wrong"}
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200


def test_the_current_password_cannot_be_guessed_with_a_stolen_token(
    client, change_password, alice, token
):
    for _ in range(20):
        assert change_password(alice, bearer(token), current="not my password").status_code == 403
    response = change_password(alice, bearer(token))
    assert response.status_code == 429
    assert "Retry-After" in response.headers
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


def test_one_changes_ones_own_password_only(client, change_password, alice, bob, token):
    assert change_password(bob, bearer(token)).status_code == 403
    assert change_password(bob, {}).status_code == 401
    # Whoever may not do it learns nothing about the body.
    response = client.put(f"/api/users/{bob}/password", json={}, headers=bearer(token))
    assert response.status_code == 403
    assert client.get("/api/users/me", headers=basic("bob")).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "current_password"),
        ({"current_password": PASSWORD}, "new_password"),
        ({"current_password": PASSWORD, "new_password": 7}, "new_password"),
        ({"current_password": None, "new_password": NEW}, "current_password"),
        ({"current_password": PASSWORD, "new_password": "short"}, "new_password"),
        ({"current_password": PASSWORD, "new_password": "password1"}, "new_password"),
        ({"current_password": PASSWORD, "new_password": "alice@example.com"}, "new_password"),
    ],
)
def test_a_body_that_will_not_do_is_refused_before_anything_is_hashed(
    client, alice, token, monkeypatch, body, field
):
    monkeypatch.setattr("app.passwords.verify_password", None)
    response = client.put(f"/api/users/{alice}/password", json=body, headers=bearer(token))
    assert response.status_code == 400
    assert field in response.json["errors"]


def run_meanwhile(app, call):
    """Runs `call` in another session, to its end."""

    def run():
        with app.app_context():
            call()
            db.session.commit()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)


def alice_of_session():
    return db.session.scalar(sa.select(User).where(User.username == "alice"))


@pytest.mark.parametrize("hashed", ["anew", "as before"])
def test_a_log_in_with_the_old_password_gets_nothing_once_it_is_changed(
    app, client, alice, monkeypatch, hashed
):
    if hashed == "anew":
        with app.app_context():
            alice_of_session().password_hash = generate_password_hash(PASSWORD, "pbkdf2:sha256:1")
            db.session.commit()
    log_in = User.renew_password_hash

    def change_in_between(user, password):
        run_meanwhile(app, lambda: alice_of_session().set_password(NEW))
        log_in(user, password)

    monkeypatch.setattr(User, "renew_password_hash", change_in_between)
    response = client.post("/api/tokens", headers=basic("alice"))
    assert (response.status_code, response.json) == (401, {"error": "Unauthorized"})
    assert response.headers["WWW-Authenticate"].startswith("Basic ")
    with app.app_context():
        assert alice_of_session().token is None
        assert alice_of_session().check_password(NEW)


def test_of_two_changes_at_once_the_later_finds_its_current_password_wrong(
    app, change_password, alice, token, monkeypatch
):
    change = User.change_password

    def change_in_between(user, password):
        run_meanwhile(app, lambda: alice_of_session().set_password("first of all"))
        change(user, password)

    monkeypatch.setattr(User, "change_password", change_in_between)
    assert change_password(alice, bearer(token)).status_code == 403
    with app.app_context():
        assert alice_of_session().check_password("first of all")


def test_two_first_log_ins_with_an_old_hash_at_once_both_succeed(app, client, alice, monkeypatch):
    with app.app_context():
        alice_of_session().password_hash = generate_password_hash(PASSWORD, "pbkdf2:sha256:1")
        db.session.commit()
    renew = User.renew_password_hash

    def renew_in_between(user, password):
        run_meanwhile(app, lambda: renew(alice_of_session(), password))
        renew(user, password)

    monkeypatch.setattr(User, "renew_password_hash", renew_in_between)
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 200
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200


def test_set_password_as_the_tutorial_calls_it_ends_the_token_too(app, client, alice, token):
    with app.app_context():
        alice_of_session().set_password(NEW)
        db.session.commit()
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert client.get("/api/users/me", headers=basic("alice", NEW)).status_code == 200


def test_set_password_ends_a_token_that_was_made_since_the_user_was_read(
    app, client, alice, log_in
):
    with app.app_context():
        user = alice_of_session()
        assert user.token is None
        token = log_in("alice")
        user.set_password(NEW)
        db.session.commit()
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


# -- Leaving ---------------------------------------------------------------------------


def test_who_has_left_is_refused_like_somebody_unknown(client, leave, alice, token):
    leave(alice, bearer(token))
    unknown = client.post("/api/tokens", headers=basic("nobody"))
    for login in ("alice", "alice@example.com"):
        response = client.post("/api/tokens", headers=basic(login))
        assert (response.status_code, response.data) == (401, unknown.data)
        assert response.headers["WWW-Authenticate"] == unknown.headers["WWW-Authenticate"]
    for headers in (bearer(token), basic(token, ""), basic("alice")):
        assert client.get("/api/users/me", headers=headers).status_code == 401


def test_one_may_leave_with_a_password(client, leave, alice):
    leave(alice, basic("alice"))
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 401


def test_nobody_can_make_another_leave(client, alice, bob, token):
    assert client.delete(f"/api/users/{bob}", headers=bearer(token)).status_code == 403
    assert client.delete(f"/api/users/{bob}").status_code == 401
    assert client.get(f"/api/users/{bob}", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize("field", ["username", "email"])
def test_the_name_of_one_who_has_left_stays_taken(client, leave, alice, token, field):
    leave(alice, bearer(token))
    body = {"username": "other", "email": "other@example.com", "password": PASSWORD}
    body[field] = {"username": "Alice", "email": "ALICE@example.com"}[field]
    response = client.post("/api/users", json=body)
    assert response.status_code == 400
    assert list(response.json["errors"]) == [field]


@pytest.fixture
def village(client, register):
    """Alice, Bob and Carol, who all follow each other and have each written a post."""
    names = ("alice", "bob", "carol")
    ids = {name: register(name) for name in names}
    posts = {}
    for name in names:
        for other in names:
            if other != name:
                path = f"/api/users/me/following/{ids[other]}"
                assert client.put(path, headers=basic(name)).status_code == 204
        body = {"body": f"{name} was here"}
        posts[name] = client.post("/api/posts", json=body, headers=basic(name)).json["id"]
    return ids, posts


def everything(client, ids):
    """What Bob sees, without what changes with time."""
    paths = ["/api/users", "/api/posts", "/api/feed"]
    for id in (ids["bob"], ids["carol"]):
        paths += [f"/api/users/{id}{rest}" for rest in ("", "/followers", "/following", "/posts")]
    return {path: client.get(path, headers=basic("bob")).json for path in paths}


def test_who_has_left_is_gone_from_every_route_with_their_posts(client, leave, village):
    ids, posts = village
    leave(ids["alice"], basic("alice"))
    seen = everything(client, ids)
    assert "alice" not in str(seen)
    assert seen["/api/users"]["_meta"]["total_items"] == 2
    assert [post["body"] for post in seen["/api/posts"]["items"]] == [
        "carol was here",
        "bob was here",
    ]
    assert len(seen["/api/feed"]["items"]) == 2
    for id in (ids["bob"], ids["carol"]):
        user = seen[f"/api/users/{id}"]
        assert (user["follower_count"], user["following_count"]) == (1, 1)
        for rest in ("/followers", "/following"):
            assert seen[f"/api/users/{id}{rest}"]["_meta"]["total_items"] == 1
    gone = ids["alice"]
    for method, path in [
        ("GET", f"/api/users/{gone}"),
        ("GET", f"/api/users/{gone}/followers"),
        ("GET", f"/api/users/{gone}/following"),
        ("GET", f"/api/users/{gone}/posts"),
        ("GET", f"/api/posts/{posts['alice']}"),
        ("PUT", f"/api/posts/{posts['alice']}"),
        ("DELETE", f"/api/posts/{posts['alice']}"),
        ("PUT", f"/api/users/me/following/{gone}"),
        ("DELETE", f"/api/users/me/following/{gone}"),
    ]:
        response = client.open(path, method=method, json={"body": "x"}, headers=basic("bob"))
        assert response.status_code == 404, f"{method} {path}"


def test_who_is_activated_has_everything_back_but_the_token(app, client, leave, log_in, village):
    ids, _ = village
    token = log_in("alice")
    before = everything(client, ids)
    for name in ("carol", "alice"):
        leave(ids[name], basic(name))
    runner = app.test_cli_runner()
    for name in ("alice", "carol"):
        assert runner.invoke(args=["users", "activate", name]).exit_code == 0
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200

    assert everything(client, ids) == before


def test_posts_of_who_has_left_take_no_room_in_a_feed(client, leave, village):
    ids, _ = village
    for number in range(5):
        client.post("/api/posts", json={"body": f"{number}"}, headers=basic("alice"))
    leave(ids["alice"], basic("alice"))
    for path in ("/api/feed", "/api/posts"):
        seen = client.get(f"{path}?per_page=1", headers=basic("bob")).json
        assert [post["body"] for post in seen["items"]] == ["carol was here"]
        assert seen["_links"]["next"]


def test_nobody_begins_to_follow_one_who_is_leaving(app, client, alice, bob, monkeypatch):
    begin = Follow.begin

    def leave_in_between(*ids):
        arguments = ["users", "deactivate", "bob"]
        run_meanwhile(app, lambda: app.test_cli_runner().invoke(args=arguments))
        begin(*ids)

    monkeypatch.setattr(Follow, "begin", leave_in_between)
    response = client.put(f"/api/users/me/following/{bob}", headers=basic("alice"))
    assert (response.status_code, response.json["error"]) == (404, "Not Found")
    app.test_cli_runner().invoke(args=["users", "activate", "bob"])
    me = client.get("/api/users/me", headers=basic("alice")).json
    assert me["following_count"] == 0
    following = client.get("/api/users/me", headers=basic("bob")).json
    assert following["follower_count"] == 0


def test_a_log_in_gets_nothing_once_its_user_is_deactivated(app, client, alice, monkeypatch):
    renew = User.renew_password_hash

    def leave_in_between(user, password):
        arguments = ["users", "deactivate", "alice"]
        run_meanwhile(app, lambda: app.test_cli_runner().invoke(args=arguments))
        renew(user, password)

    monkeypatch.setattr(User, "renew_password_hash", leave_in_between)
    assert client.post("/api/tokens", headers=basic("alice")).status_code == 401


def test_a_token_minted_in_code_is_refused_to_one_who_has_left(app, alice):
    with app.app_context():
        user = alice_of_session()
        user.deactivated_at = datetime.now(UTC)
        db.session.commit()
        with pytest.raises(OutdatedError):
            user.get_token()


def test_who_follows_one_who_is_leaving_is_counted_right(app, client, server, register):
    """Followers come and go while the followed leave and return; nothing fails."""
    ids = [register(f"user{number}") for number in range(8)]
    runner = app.test_cli_runner()
    stop = threading.Event()
    answers = []

    def follow(number):
        round_ = 0
        while not stop.is_set():
            round_ += 1
            other = ids[(number + round_) % 8]
            method = "PUT" if round_ % 3 else "DELETE"
            path = f"/api/users/me/following/{other}"
            answers.append(server.request(method, path, headers=basic(f"user{number}")).status)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(12):
        name = f"user{4 + number % 4}"
        for verb in ("deactivate", "activate"):
            result = runner.invoke(args=["users", verb, name])
            assert result.exit_code == 0, result.output
    stop.set()
    for thread in threads:
        thread.join()
    assert {204} <= set(answers) <= {204, 400, 404}
    for id in ids:
        user = client.get(f"/api/users/{id}", headers=basic("user0")).json
        for rest, count in (("followers", "follower_count"), ("following", "following_count")):
            items = client.get(f"/api/users/{id}/{rest}", headers=basic("user0")).json["items"]
            assert len(items) == user[count]


def test_the_very_next_request_at_another_process_is_refused(app, config_class, server, register):
    ids = {name: register(name) for name in ("alice", "bob")}
    settings = {**server.environment, "PORT": "0", "WEB_CONCURRENCY": "2"}
    with Server(**settings) as other:
        for name, method, path, body in [
            (
                "alice",
                "PUT",
                f"/api/users/{ids['alice']}/password",
                {"current_password": PASSWORD, "new_password": NEW},
            ),
            ("bob", "DELETE", f"/api/users/{ids['bob']}", None),
        ]:
            token = server.request("POST", "/api/tokens", headers=basic(name)).json["token"]
            for _ in range(4):
                me = other.request("GET", "/api/users/me", headers=bearer(token))
                assert me.status == 200
            done = server.request(method, path, headers=bearer(token), json_body=body)
            assert done.status == 204
            for _ in range(4):
                for headers in (bearer(token), basic(token, ""), basic(name)):
                    assert other.request("GET", "/api/users/me", headers=headers).status == 401


def test_a_token_dead_by_deactivation_does_not_come_back_with_the_clock(
    app, client, leave, alice, token
):
    leave(alice, bearer(token))
    app.test_cli_runner().invoke(args=["users", "activate", "alice"])
    with time_machine.travel(datetime.now(UTC) - timedelta(hours=2)):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
