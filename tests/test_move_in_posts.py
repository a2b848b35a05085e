"""Posts and followers that move in from a tutorial application."""

import pytest
import sqlalchemy as sa

from app import db
from app.models import Follow, Post, User
from tests.helpers import basic
from tests.move_in import SOURCES, tutorial_at
from tests.tutorial import EDITIONS

pytestmark = pytest.mark.slow  # each makes and migrates databases


@pytest.fixture
def move_in(app):
    def move_in(source, *options, fails=False):
        result = app.test_cli_runner().invoke(args=("move-in", source.url, "--copy", *options))
        assert (result.exit_code != 0) == fails, result.output
        return result.output

    return move_in


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("edition", EDITIONS)
def test_posts_and_followers_are_copied_and_counted(client, move_in, tmp_path, kind, edition):
    with tutorial_at(kind, tmp_path, edition) as source:
        source.fill()
        written = dict(source.run("SELECT body, timestamp FROM post"))
        move_in(source)
    susan = basic("susan", "cat")
    shown = {
        user["username"]: user for user in client.get("/api/users", headers=susan).json["items"]
    }
    counts = {
        name: (user["post_count"], user["follower_count"], user["following_count"])
        for name, user in shown.items()
    }
    assert counts == {"susan": (1, 1, 2), "john": (0, 1, 1), "david": (1, 1, 0)}
    posts = client.get("/api/posts", headers=susan).json["items"]
    assert {post["body"] for post in posts} == set(written)
    assert "ein Beitrag von Jürgen 🐟" in written
    for post in posts:
        assert post["timestamp"][:19] == str(written[post["body"]])[:19].replace(" ", "T")
    followed = client.get("/api/users/1/following", headers=susan).json["items"]
    assert [user["username"] for user in followed] == ["john", "david"]


def test_the_counts_are_right_after_an_unfollow_and_a_new_post(client, move_in, tmp_path):
    with tutorial_at("sqlite", tmp_path) as source:
        move_in(source.fill())
    susan = basic("susan", "cat")
    assert client.delete("/api/users/me/following/2", headers=susan).status_code == 204
    made = client.post("/api/posts", json={"body": "another"}, headers=susan).json
    assert made["id"] == 3
    shown = client.get("/api/users/1", headers=susan).json
    assert (shown["following_count"], shown["post_count"]) == (1, 2)


def test_rows_that_cannot_be_stored_are_counted_and_left_out_if_that_is_allowed(
    app, move_in, tmp_path
):
    with tutorial_at("sqlite", tmp_path, "2021") as source:
        source.fill()
        for body, user_id in (("of nobody", None), ("of no one", 99), ("x" * 141, 1), ("", 1)):
            source.run("INSERT INTO post (body, user_id) VALUES (:b, :u)", b=body, u=user_id)
        for pair in ((1, 99), (2, 2), (None, 1)):
            source.run("INSERT INTO followers VALUES (:a, :b)", a=pair[0], b=pair[1])
        output = move_in(source, fails=True)
        for line in (
            "left out: 2 without an author",
            "left out: 1 whose text is longer than 140 characters",
            "left out: 1 whose text is empty",
            "left out: 2 of users who are not there",
            "left out: 1 of users by themselves",
            "Error: some rows cannot be copied; --leave-out copies the others",
        ):
            assert line in output
        with app.app_context():
            assert db.session.scalar(sa.select(sa.func.count(User.id))) == 0
        move_in(source, "--leave-out")
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count(Post.id))) == 2
        assert db.session.scalar(sa.select(sa.func.count()).select_from(Follow)) == 3


def test_a_post_without_a_time_has_that_of_1970(client, move_in, tmp_path):
    with tutorial_at("sqlite", tmp_path, "2018") as source:
        source.fill().run("UPDATE post SET timestamp = NULL WHERE user_id = 1")
        move_in(source)
    posts = client.get("/api/users/1/posts", headers=basic("susan", "cat")).json["items"]
    assert [post["timestamp"][:10] for post in posts] == ["1970-01-01"]


def test_posts_are_counted_where_nobody_can_follow(app, move_in, tmp_path):
    with tutorial_at("sqlite", tmp_path) as source:
        source.fill().run("DROP TABLE followers")
        move_in(source)
    with app.app_context():
        users = db.session.scalars(sa.select(User).order_by(User.id)).all()
        assert [user.post_count for user in users] == [1, 0, 1]


def test_users_with_any_id_are_counted(app, move_in, tmp_path):
    with tutorial_at("sqlite", tmp_path) as source:
        source.fill().run("UPDATE user SET id = -7 WHERE username = 'susan'")
        source.run("UPDATE post SET user_id = -7 WHERE user_id = 1")
        move_in(source, "--leave-out")
    with app.app_context():
        assert db.session.get(User, -7).post_count == 1
