"""Leaving and coming back: what becomes of posts and followers."""

import threading
from functools import partial

import pytest

from app.models import Follow
from tests.helpers import basic


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
    """Return what Bob sees, {path: JSON}, without values that change with time."""
    paths = ["/api/users", "/api/posts", "/api/feed"]
    for id in (ids["bob"], ids["carol"]):
        paths += [f"/api/users/{id}{rest}" for rest in ("", "/followers", "/following", "/posts")]
    return {path: client.get(path, headers=basic("bob")).json for path in paths}


def test_a_deactivated_user_and_their_posts_disappear_from_every_route(client, leave, village):
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


def test_who_is_activated_has_posts_and_followers_back(app, client, leave, village):
    ids, _ = village
    before = everything(client, ids)
    for name in ("carol", "alice"):
        leave(ids[name], basic(name))
    runner = app.test_cli_runner()
    for name in ("alice", "carol"):
        assert runner.invoke(args=["users", "activate", name]).exit_code == 0
    assert everything(client, ids) == before


def test_posts_of_a_deactivated_user_do_not_shorten_a_page(client, leave, village):
    ids, _ = village
    for number in range(5):
        client.post("/api/posts", json={"body": f"{number}"}, headers=basic("alice"))
    leave(ids["alice"], basic("alice"))
    for path in ("/api/feed", "/api/posts"):
        seen = client.get(f"{path}?per_page=1", headers=basic("bob")).json
        assert [post["body"] for post in seen["items"]] == ["carol was here"]
        assert seen["_links"]["next"]


def test_following_a_user_who_is_deactivated_meanwhile_is_404(app, client, alice, bob, monkeypatch):
    begin = Follow.begin
    deactivate = partial(app.test_cli_runner().invoke, args=["users", "deactivate", "bob"])

    def leave_in_between(*ids):
        thread = threading.Thread(target=deactivate)
        thread.start()
        thread.join(20)
        begin(*ids)

    monkeypatch.setattr(Follow, "begin", leave_in_between)
    response = client.put(f"/api/users/me/following/{bob}", headers=basic("alice"))
    assert (response.status_code, response.json["error"]) == (404, "Not Found")
    app.test_cli_runner().invoke(args=["users", "activate", "bob"])
    me = client.get("/api/users/me", headers=basic("alice")).json
    assert me["following_count"] == 0
    following = client.get("/api/users/me", headers=basic("bob")).json
    assert following["follower_count"] == 0


def test_follower_counts_stay_correct_while_users_are_deactivated_and_activated(
    app, client, server, register
):
    """Users follow and unfollow others, who are deactivated and activated meanwhile."""
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
