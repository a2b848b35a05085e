"""Posts, streams of posts, and the feed."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from app import db
from app.models import Post, User, deactivate
from tests.helpers import at_once, basic, bearer


@pytest.fixture
def publish(client):
    def publish(login, body="Hello"):
        response = client.post("/api/posts", json={"body": body}, headers=basic(login))
        assert response.status_code == 201, response.text
        return response.json["id"]

    return publish


def ids(stream):
    return [post["id"] for post in stream["items"]]


def test_a_post_is_published(client, alice, token):
    response = client.post("/api/posts", json={"body": "Grüße 🙂"}, headers=bearer(token))
    assert response.status_code == 201
    post = response.json
    assert response.headers["Location"] == f"/api/posts/{post['id']}"
    assert post == {
        "id": post["id"],
        "body": "Grüße 🙂",
        "timestamp": post["timestamp"],
        "author": {"id": alice, "username": "alice", "_links": post["author"]["_links"]},
        "_links": {"self": f"/api/posts/{post['id']}", "author": f"/api/users/{alice}"},
    }
    assert post["author"]["_links"]["self"] == f"/api/users/{alice}"
    assert post["timestamp"].endswith("+00:00")
    assert client.get(response.headers["Location"], headers=bearer(token)).json == post


def test_the_author_can_change_and_delete_a_post(client, alice, token, publish):
    path = f"/api/posts/{publish('alice')}"
    response = client.put(path, json={"body": "Changed", "user_id": 7}, headers=bearer(token))
    assert (response.status_code, response.json["body"]) == (200, "Changed")
    assert client.get(path, headers=bearer(token)).json == response.json
    assert client.get("/api/users/me", headers=bearer(token)).json["post_count"] == 1
    assert client.delete(path, headers=bearer(token)).status_code == 204
    assert client.get(path, headers=bearer(token)).status_code == 404
    assert client.delete(path, headers=bearer(token)).status_code == 404
    assert client.get("/api/users/me", headers=bearer(token)).json["post_count"] == 0


@pytest.mark.parametrize("body", ["", "not json", '{"body": "Mine now"}', '{"body": ""}'])
def test_another_user_cannot_change_or_delete_a_post_whatever_the_body(
    client, alice, bob, token, publish, body
):
    path = f"/api/posts/{publish('bob')}"
    assert client.put(path, data=body, headers=bearer(token)).status_code == 403
    assert client.delete(path, headers=bearer(token)).status_code == 403
    assert client.get(path, headers=bearer(token)).json["body"] == "Hello"


@pytest.mark.parametrize("length", [1, 140])
@pytest.mark.parametrize("character", ["x", "ß", "日", "🙂", "\n"])
def test_a_body_has_1_to_140_characters_of_any_script(client, token, length, character):
    body = {"body": character * length}
    response = client.post("/api/posts", json=body, headers=bearer(token))
    assert (response.status_code, response.json["body"]) == (201, body["body"])


@pytest.mark.parametrize("body", ["", "x" * 141, "\0", "a\ud800", None, 1, ["x"], {}])
def test_an_invalid_body_is_refused_and_changes_nothing(client, alice, token, publish, body):
    path = f"/api/posts/{publish('alice')}"
    data = json.dumps({"body": body})
    for method, target in (("POST", "/api/posts"), ("PUT", path)):
        response = client.open(
            target,
            method=method,
            data=data,
            content_type="application/json",
            headers=bearer(token),
        )
        assert response.status_code == 400
        assert list(response.json["errors"]) == ["body"]
    assert client.get(path, headers=bearer(token)).json["body"] == "Hello"
    assert client.get("/api/users/me", headers=bearer(token)).json["post_count"] == 1


@pytest.mark.parametrize("id", ["0", "999999", "abc", "9" * 18, "9" * 30])
def test_a_post_that_does_not_exist_is_404(client, token, id):
    for method in ("GET", "PUT", "DELETE"):
        path = f"/api/posts/{id}"
        assert client.open(path, method=method, headers=bearer(token)).status_code == 404
    assert client.get(f"/api/users/{id}/posts", headers=bearer(token)).status_code == 404


def test_streams_come_newest_first_and_page_by_position(client, alice, bob, token, publish):
    posts = [publish(name) for name in ("alice", "bob", "alice", "alice", "bob")]
    first = client.get("/api/posts?per_page=2", headers=bearer(token)).json
    assert ids(first) == [posts[4], posts[3]]
    assert first["_meta"] == {"per_page": 2}
    assert first["_links"] == {
        "self": "/api/posts?per_page=2",
        "next": f"/api/posts?per_page=2&before={posts[3]}",
    }
    # A post published meanwhile does not shift the pages.
    publish("bob")
    second = client.get(first["_links"]["next"], headers=bearer(token)).json
    assert ids(second) == [posts[2], posts[1]]
    third = client.get(second["_links"]["next"], headers=bearer(token)).json
    assert ids(third) == [posts[0]]
    assert third["_links"]["next"] is None

    own = client.get(f"/api/users/{alice}/posts?per_page=2", headers=bearer(token)).json
    assert ids(own) == [posts[3], posts[2]]
    assert own["_links"]["next"] == f"/api/users/{alice}/posts?per_page=2&before={posts[2]}"
    rest = client.get(own["_links"]["next"], headers=bearer(token)).json
    assert ids(rest) == [posts[0]]


def test_an_empty_stream_has_no_next(client, token):
    stream = client.get("/api/feed", headers=bearer(token)).json
    assert stream == {
        "items": [],
        "_meta": {"per_page": 10},
        "_links": {"self": "/api/feed?per_page=10", "next": None},
    }


def test_the_feed_contains_the_posts_of_followed_users_and_of_the_user(
    client, register, log_in, publish
):
    people = {name: register(name) for name in ("alice", "bob", "carol", "dave")}
    headers = bearer(log_in("alice"))
    for name in ("bob", "carol"):
        client.put(f"/api/users/me/following/{people[name]}", headers=headers)
    posts = [publish(name) for name in ("alice", "bob", "dave", "carol", "bob", "dave", "alice")]
    expected = [posts[index] for index in (6, 4, 3, 1, 0)]
    assert ids(client.get("/api/feed", headers=headers).json) == expected
    page = client.get("/api/feed?per_page=2", headers=headers).json
    seen = ids(page)
    while page["_links"]["next"]:
        page = client.get(page["_links"]["next"], headers=headers).json
        seen += ids(page)
    assert seen == expected
    client.delete(f"/api/users/me/following/{people['bob']}", headers=headers)
    assert ids(client.get("/api/feed", headers=headers).json) == [posts[6], posts[3], posts[0]]


def test_paging_through_the_feed_returns_every_post_of_prolific_authors(
    client, register, log_in, publish
):
    people = {name: register(name) for name in ("alice", "bob", "carol")}
    headers = bearer(log_in("alice"))
    for name in ("bob", "carol"):
        client.put(f"/api/users/me/following/{people[name]}", headers=headers)
    posts = [publish(name) for name in ("bob", "bob", "carol", "bob", "bob", "bob", "carol", "bob")]
    for per_page in (1, 2, 3):
        path, seen = f"/api/feed?per_page={per_page}", []
        while path:
            page = client.get(path, headers=headers).json
            seen += ids(page)
            path = page["_links"]["next"]
        assert seen == posts[::-1]


def test_the_id_of_a_deleted_post_is_not_reused(client, alice, token, publish):
    last = publish("alice")
    client.delete(f"/api/posts/{last}", headers=bearer(token))
    assert publish("alice") > last


@pytest.mark.parametrize("route", ["/api/posts", "/api/feed", "/api/users/{}/posts"])
@pytest.mark.parametrize("value", ["abc", "0", "-1", str(2**63), "٣", ""])
def test_an_invalid_before_is_refused(client, alice, token, route, value):
    query = {"before": value}
    response = client.get(route.format(alice), query_string=query, headers=bearer(token))
    assert response.status_code == 400
    assert list(response.json["errors"]) == ["before"]


@pytest.mark.parametrize("route", ["/api/posts", "/api/feed", "/api/users/{}/posts"])
@pytest.mark.parametrize(("value", "counts_as"), [("0", 1), ("101", 100), ("x", 10)])
def test_a_per_page_that_cannot_be_is_replaced_by_one_that_can(
    client, alice, token, route, value, counts_as
):
    query = {"per_page": value}
    response = client.get(route.format(alice), query_string=query, headers=bearer(token))
    assert response.json["_meta"] == {"per_page": counts_as}


def test_post_count_is_correct_after_concurrent_posts_and_deletions(server, client, register):
    register("alice")
    headers = basic("alice")

    def publish_and_delete(_):
        for keep in (False, True, False):
            answer = server.request("POST", "/api/posts", json_body={"body": "x"}, headers=headers)
            assert answer.status == 201
            if not keep:
                path = answer.headers["Location"]
                assert server.request("DELETE", path, headers=headers).status == 204

    at_once(8, publish_and_delete)
    assert client.get("/api/users/me", headers=headers).json["post_count"] == 8


def test_changing_a_post_while_it_is_deleted_gives_200_or_404(server, register, publish):
    register("alice")
    headers = basic("alice")
    for _ in range(5):
        path = f"/api/posts/{publish('alice')}"

        def change_or_delete(number, path=path):
            if number == 0:
                return server.request("DELETE", path, headers=headers).status
            return server.request("PUT", path, json_body={"body": "x"}, headers=headers).status

        assert set(at_once(6, change_or_delete)) <= {200, 204, 404}


def test_concurrent_log_ins_posts_and_follows_of_one_user_do_not_deadlock(server, client, register):
    """On a deadlock, PostgreSQL would abort one of them after a second."""
    alice = register("alice")
    names = [f"user{number}" for number in range(3)]
    for name in names:
        register(name)

    def act(number):
        statuses = []
        for _ in range(15):
            if number < 2:
                token = server.request("POST", "/api/tokens", headers=basic("alice"))
                out = server.request("DELETE", "/api/tokens", headers=basic("alice"))
                statuses += [token.status == 200, out.status == 204]
            elif number < 5:
                body = {"body": "x"}
                post = server.request("POST", "/api/posts", json_body=body, headers=basic("alice"))
                statuses.append(post.status == 201)
            else:
                path = f"/api/users/me/following/{alice}"
                for method in ("PUT", "DELETE"):
                    answer = server.request(method, path, headers=basic(names[number - 5]))
                    statuses.append(answer.status == 204)
        return all(statuses)

    assert at_once(8, act) == [True] * 8
    user = client.get("/api/users/me", headers=basic("alice")).json
    assert (user["post_count"], user["follower_count"]) == (45, 0)


def test_a_post_deleted_twice_at_once_is_counted_once(server, client, register, publish):
    register("alice")
    publish("alice")
    path = f"/api/posts/{publish('alice')}"
    answers = at_once(8, lambda _: server.request("DELETE", path, headers=basic("alice")).status)
    assert set(answers) <= {204, 404}
    assert client.get("/api/users/me", headers=basic("alice")).json["post_count"] == 1


def test_changing_a_post_that_has_just_been_deleted_is_404(app, client, token, monkeypatch):
    path = client.post("/api/posts", json={"body": "Hello"}, headers=bearer(token)).headers
    find = Post.find

    def find_and_delete(id):
        post = find(id)
        db.session.commit()
        with db.engine.begin() as other:
            other.execute(sa.delete(Post))
        return post

    monkeypatch.setattr(Post, "find", find_and_delete)
    response = client.put(path["Location"], json={"body": "late"}, headers=bearer(token))
    assert (response.status_code, response.json["error"]) == (404, "Not Found")


# -- Code written for the tutorial -----------------------------------------------------


def test_following_posts_are_those_of_the_tutorial(app):
    """As its test: `test_follow_posts`."""
    now = datetime.now(UTC)
    with app.app_context():
        names = ("john", "susan", "mary", "david")
        users = [User(username=name, email=f"{name}@example.com") for name in names]
        db.session.add_all(users)
        john, susan, mary, david = users
        posts = [
            Post(body=f"post from {user.username}", author=user, timestamp=now + timedelta(seconds))
            for user, seconds in zip(users, (1, 4, 3, 2), strict=True)
        ]
        db.session.add_all(posts)
        db.session.commit()
        for user, other in ((john, susan), (john, david), (susan, mary), (mary, david)):
            user.follow(other)
        db.session.commit()
        p1, p2, p3, p4 = posts
        feeds = {john: [p2, p4, p1], susan: [p2, p3], mary: [p3, p4], david: [p4]}
        for user, expected in feeds.items():
            assert db.session.scalars(user.following_posts()).all() == expected
        assert db.paginate(john.following_posts(), page=2, per_page=2).items == [p1]
        deactivate(susan)
        db.session.commit()
        assert db.session.scalars(john.following_posts()).all() == [p4, p1]


def test_the_posts_of_a_user_can_be_selected(app, alice, bob, publish):
    first, _, third = publish("alice"), publish("bob"), publish("alice")
    with app.app_context():
        query = db.session.get(User, alice).posts.select().order_by(Post.id.desc())
        assert [post.id for post in db.session.scalars(query)] == [third, first]
