"""Following and unfollowing users, and the counts of followers."""

import pytest

from app import db
from app.models import Follow, User
from tests.helpers import at_once, basic, bearer


@pytest.fixture
def counts(client):
    def counts(login):
        user = client.get("/api/users/me", headers=basic(login)).json
        return user["follower_count"], user["following_count"]

    return counts


def test_following_is_idempotent_and_counted(client, alice, bob, token, counts):
    for _ in range(2):
        response = client.put(f"/api/users/me/following/{bob}", headers=bearer(token))
        assert (response.status_code, response.text) == (204, "")
        assert (counts("alice"), counts("bob")) == ((0, 1), (1, 0))
    for _ in range(2):
        response = client.delete(f"/api/users/me/following/{bob}", headers=bearer(token))
        assert (response.status_code, response.text) == (204, "")
        assert (counts("alice"), counts("bob")) == ((0, 0), (0, 0))


def test_followers_and_followed_users_are_listed(client, alice, bob, register, token):
    carol = register("carol")
    for id in (carol, bob):
        client.put(f"/api/users/me/following/{id}", headers=bearer(token))
    page = client.get(f"/api/users/{alice}/following?per_page=1", headers=bearer(token)).json
    assert [user["username"] for user in page["items"]] == ["bob"]
    assert page["_meta"] == {"page": 1, "per_page": 1, "total_pages": 2, "total_items": 2}
    assert page["_links"] == {
        "self": f"/api/users/{alice}/following?page=1&per_page=1",
        "next": f"/api/users/{alice}/following?page=2&per_page=1",
        "prev": None,
    }
    page = client.get(page["_links"]["next"], headers=bearer(token)).json
    assert [user["username"] for user in page["items"]] == ["carol"]
    page = client.get(f"/api/users/{bob}/followers", headers=bearer(token)).json
    assert [user["username"] for user in page["items"]] == ["alice"]
    assert page["_links"]["self"] == f"/api/users/{bob}/followers?page=1&per_page=10"
    assert client.get(f"/api/users/{alice}/followers", headers=bearer(token)).json["items"] == []


def test_the_old_route_followed_answers_like_following(client, alice, bob, token):
    client.put(f"/api/users/me/following/{bob}", headers=bearer(token))
    old, new = (
        client.get(f"/api/users/{alice}/{name}", headers=bearer(token)).json
        for name in ("followed", "following")
    )
    assert old == new


def test_following_twice_does_not_discard_other_pending_changes(app, alice, bob):
    with app.app_context():
        Follow.begin(alice, bob)
        user = db.session.get(User, alice)
        user.about_me = "Hi"
        Follow.begin(alice, bob)
        db.session.commit()
        assert (user.about_me, db.session.get(User, bob).follower_count) == ("Hi", 1)


def test_a_user_cannot_follow_themselves(client, alice, token, counts):
    response = client.put(f"/api/users/me/following/{alice}", headers=bearer(token))
    assert response.status_code == 400
    assert "yourself" in response.json["message"]
    assert (
        client.delete(f"/api/users/me/following/{alice}", headers=bearer(token)).status_code == 204
    )
    assert counts("alice") == (0, 0)


@pytest.mark.parametrize("id", ["999999", "0", "abc", "9" * 18])
def test_a_user_that_does_not_exist_is_404(client, token, id):
    for method in ("PUT", "DELETE"):
        path = f"/api/users/me/following/{id}"
        assert client.open(path, method=method, headers=bearer(token)).status_code == 404
    for name in ("followers", "following", "followed"):
        assert client.get(f"/api/users/{id}/{name}", headers=bearer(token)).status_code == 404


@pytest.mark.parametrize("name", ["followers", "following", "followed"])
def test_a_page_or_per_page_that_cannot_be_is_replaced_by_one_that_can(client, alice, token, name):
    response = client.get(f"/api/users/{alice}/{name}?page=0&per_page=101", headers=bearer(token))
    assert response.status_code == 200
    assert (response.json["_meta"]["page"], response.json["_meta"]["per_page"]) == (1, 100)


def test_users_who_follow_each_other_concurrently_do_not_deadlock(server, register, counts):
    ids = {name: register(name) for name in ("alice", "bob")}

    def follow(number):
        follower, followed = ("alice", "bob") if number % 2 else ("bob", "alice")
        path = f"/api/users/me/following/{ids[followed]}"
        for method in ("PUT", "DELETE", "PUT"):
            assert server.request(method, path, headers=basic(follower)).status == 204

    at_once(8, follow)
    assert (counts("alice"), counts("bob")) == ((1, 1), (1, 1))


# -- Code written for the tutorial -----------------------------------------------------


def test_the_methods_of_the_tutorial_follow_and_count(app, alice, counts):
    with app.app_context():
        john, susan = User(username="john", email="j@x.de"), User(username="susan", email="s@x.de")
        db.session.add_all([john, susan])
        assert not john.is_following(susan)
        for _ in range(2):
            john.follow(susan)
            db.session.commit()
            assert john.is_following(susan)
            assert not susan.is_following(john)
            assert (john.following_count(), john.followers_count()) == (1, 0)
            assert (susan.following_count(), susan.followers_count()) == (0, 1)
        john.follow(db.session.get(User, alice))
        db.session.commit()
        assert counts("alice") == (1, 0)
        john.unfollow(susan)
        db.session.commit()
        assert not john.is_following(susan)
        assert (john.following_count(), susan.followers_count()) == (1, 0)


def test_the_counts_of_the_methods_are_those_of_now(app, client, alice, bob, token):
    with app.app_context():
        user = db.session.get(User, alice)
        assert user.following_count() == 0
        path = f"/api/users/me/following/{bob}"
        at_once(1, lambda _: client.put(path, headers=bearer(token)))
        assert user.following_count() == 1
