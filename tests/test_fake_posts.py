"""`flask fake posts`: the posts, their counts, and the refusal of a remote database."""

import pytest
import sqlalchemy as sa

from app import db
from app.cli import fake
from app.models import Post, User
from tests.helpers import basic


@pytest.fixture
def run(app):
    return lambda *arguments: app.test_cli_runner().invoke(args=["fake", *arguments])


def test_it_makes_posts_whose_counts_are_true(app, client, alice, run, monkeypatch):
    monkeypatch.setattr(fake, "BATCH", 30)
    assert run("users", "70").exit_code == 0
    assert run("posts", "200").exit_code == 0
    assert run("posts", "3").exit_code == 0
    page = client.get("/api/users?per_page=100", headers=basic("alice")).json
    assert sum(user["post_count"] for user in page["items"]) == 203
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count()).select_from(Post)) == 203
        written = sa.select(sa.func.count()).where(Post.user_id == User.id).scalar_subquery()
        assert list(db.session.scalars(sa.select(User).where(User.post_count != written))) == []
    posts = client.get("/api/posts?per_page=100", headers=basic("alice")).json["items"]
    times = [post["timestamp"] for post in posts]
    assert times == sorted(times, reverse=True)


def test_fake_posts_requires_at_least_one_user(run):
    result = run("posts", "1")
    assert result.exit_code == 1
    assert "there are no users to write posts; make some with" in result.output


def test_another_machine_is_only_filled_with_posts_when_told(run, monkeypatch):
    run("users", "1")
    monkeypatch.setattr(fake, "is_local", lambda _: False)
    result = run("posts", "1")
    assert result.exit_code == 2
    assert "--yes" in result.output
    assert run("posts", "1", "--yes").exit_code == 0
