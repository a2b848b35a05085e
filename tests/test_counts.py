"""The stored counts of posts and followers, after changes by code and by SQL."""

import random

import pytest
import sqlalchemy as sa

from app import db
from app.models import Follow, Post, Total, User, counts, recount
from tests.helpers import at_once, basic


@pytest.fixture
def people(register):
    """The ids of six users."""
    return [register(f"user{number}") for number in range(6)]


def stored(client, number):
    user = client.get("/api/users/me", headers=basic(f"user{number}")).json
    return user["post_count"], user["follower_count"], user["following_count"]


def test_posts_that_code_adds_or_deletes_are_counted(app, client, people):
    with app.app_context():
        author = db.session.get(User, people[0])
        susan = User(username="susan", email="susan@example.com")
        posts = [Post(body=body, author=author) for body in "abc"]
        posts += [Post(body="d", user_id=people[0]), Post(body="e", author=susan)]
        db.session.add_all(posts)
        db.session.commit()
        assert (author.post_count, susan.post_count) == (3, 1)  # without the one by number
        assert (author.posts_count(), susan.posts_count()) == (4, 1)
        db.session.delete(posts[1])
        db.session.commit()
        db.session.add(Post(body="f", author=author))
        db.session.flush()
        db.session.rollback()
        assert author.post_count == author.posts_count() == 3
    assert stored(client, 0) == (3, 0, 0)


def test_posts_that_are_deleted_in_bulk_count_until_a_recount(app, client, people):
    with app.app_context():
        author = db.session.get(User, people[0])
        db.session.add_all([Post(body=body, author=author) for body in "abc"])
        db.session.flush()
        db.session.execute(sa.delete(Post).where(Post.body < "c"))
        db.session.commit()
        assert recount() == 1
    assert stored(client, 0) == (1, 0, 0)


def test_a_user_who_has_posts_or_followers_is_not_deleted(app, client, people):
    first, second, third = people[:3]
    with app.app_context():
        users = [db.session.get(User, id) for id in (first, second, third)]
        db.session.add(Post(body="Hello", author=users[0]))
        users[1].follow(users[2])
        db.session.commit()
        for user in users:
            db.session.delete(user)
            with pytest.raises(sa.exc.IntegrityError):
                db.session.commit()
            db.session.rollback()
        assert recount() == 0
        users[1].unfollow(users[2])
        db.session.delete(users[2])
        db.session.commit()
        assert recount() == 0
    total = client.get("/api/users", headers=basic("user0")).json["_meta"]["total_items"]
    assert total == len(people) - 1


def test_rows_written_by_sql_count_after_a_recount(app, client, people):
    first, second, third = people[:3]
    app.test_cli_runner().invoke(args=["users", "deactivate", "user2"])
    with app.app_context():
        db.session.execute(sa.insert(Post), [{"user_id": first, "body": "a"}] * 3)
        pairs = [(first, second), (second, first), (third, first), (first, third)]
        rows = [{"follower_id": one, "followed_id": other} for one, other in pairs]
        db.session.execute(sa.insert(Follow), rows)
        user = db.session.get(User, second)
        assert recount() == 3  # also what the third has, who may come back
        assert user.follower_count == 1
        assert recount() == 0
    assert (stored(client, 0), stored(client, 1)) == ((3, 1, 1), (0, 1, 1))
    app.test_cli_runner().invoke(args=["users", "activate", "user2"])
    assert (stored(client, 0), stored(client, 2)) == ((3, 2, 2), (0, 1, 1))


def test_a_recount_reaches_every_batch(app, monkeypatch, people):
    monkeypatch.setattr(counts, "BATCH", 2)
    with app.app_context():
        db.session.execute(sa.update(User).values(post_count=7, follower_count=-1))
        db.session.commit()
        assert recount() == len(people)
        assert recount() == 0


def test_a_recount_is_right_while_others_write(app, monkeypatch, people):
    monkeypatch.setattr(counts, "BATCH", 2)

    def write(number):
        """Publish, withdraw, follow and unfollow as one of five; the sixth comes and goes."""
        draw = random.Random(number)
        client = app.test_client()
        headers = basic(f"user{number}")
        for round_ in range(12):
            path = f"/api/users/me/following/{draw.choice(people)}"
            client.open(path, method=draw.choice(["PUT", "DELETE"]), headers=headers)
            post = client.post("/api/posts", json={"body": "Hello"}, headers=headers).json
            if draw.random() < 0.5:
                client.delete(f"/api/posts/{post['id']}", headers=headers)
            if number == 0:
                verb = "activate" if round_ % 2 else "deactivate"
                assert app.test_cli_runner().invoke(args=["users", verb, "user5"]).exit_code == 0

    def spoil_and_recount():
        with app.app_context():
            for _ in range(20):
                for id in people:  # in the order in which all take the locks
                    values = {"post_count": User.post_count + 3, "followed_count": -9}
                    db.session.execute(sa.update(User).where(User.id == id).values(values))
                    db.session.commit()
                db.session.execute(Total.addition("user", 5))
                db.session.commit()
                found.append(recount())

    found = []
    at_once(6, lambda number: write(number) if number < 5 else spoil_and_recount())
    with app.app_context():
        assert (found, recount()) == ([7] * 20, 0)


def test_of_two_recounts_at_once_one_finds_what_is_wrong(app, people):
    def run(_):
        with app.app_context():
            return recount()

    for _ in range(5):
        with app.app_context():
            db.session.execute(sa.update(User).values(post_count=7))
            db.session.commit()
        assert sum(at_once(4, run)) == len(people)
        assert run(0) == 0
