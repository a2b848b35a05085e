"""`flask fake`: many users and posts, with counts that are true, and only where it is meant."""

import pytest
import sqlalchemy as sa

from app import db, fake
from app.models import Post, User
from tests.helpers import PASSWORD, basic


@pytest.fixture
def run(app):
    return lambda *arguments: app.test_cli_runner().invoke(args=["fake", *arguments])


def test_it_makes_users_and_posts_whose_counts_are_true(app, client, alice, run, monkeypatch):
    monkeypatch.setattr(fake, "BATCH", 30)
    assert run("users", "70").exit_code == 0
    assert run("posts", "200").exit_code == 0
    assert run("posts", "3").exit_code == 0
    page = client.get("/api/users?per_page=100", headers=basic("alice")).json
    assert len(page["items"]) == page["_meta"]["total_items"] == 71
    assert sum(user["post_count"] for user in page["items"]) == 203
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count()).select_from(Post)) == 203
        written = sa.select(sa.func.count()).where(Post.user_id == User.id).scalar_subquery()
        assert list(db.session.scalars(sa.select(User).where(User.post_count != written))) == []
    posts = client.get("/api/posts?per_page=100", headers=basic("alice")).json["items"]
    times = [post["timestamp"] for post in posts]
    assert times == sorted(times, reverse=True)


def test_it_can_be_repeated(run):
    for _ in range(2):
        assert run("users", "5").exit_code == 0


def test_nobody_can_log_in_as_a_fake_user(app, client, run):
    run("users", "1")
    with app.app_context():
        name = db.session.scalar(sa.select(User.username))
    for password in ("", "password", PASSWORD, name):
        assert client.post("/api/tokens", headers=basic(name, password)).status_code == 401


def test_posts_need_somebody_to_write_them(run):
    result = run("posts", "1")
    assert result.exit_code == 1
    assert "there is nobody to write posts; make users with" in result.output


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5"])
def test_a_number_that_is_none_is_refused(run, count):
    result = run("users", "--", count)
    assert result.exit_code == 2
    assert "COUNT" in result.output


def test_another_machine_is_only_filled_when_told(run, monkeypatch):
    monkeypatch.setattr(fake, "is_local", lambda _: False)
    for command in ("users", "posts"):
        result = run(command, "1")
        assert result.exit_code == 2
        assert "--yes" in result.output
    assert run("users", "1", "--yes").exit_code == 0


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("sqlite:////srv/app.db", True),
        ("postgresql://localhost/d", True),
        ("postgresql://127.0.0.1:5433/d", True),
        ("postgresql:///d", True),
        ("postgresql:///d?host=/var/run/postgresql", True),
        ("postgresql://db.example.com/d", False),
        ("postgresql:///d?host=10.0.0.5", False),
        ("postgresql:///d?host=/tmp,db.example.com", False),
        ("postgresql://localhost/d?hostaddr=10.0.0.5", False),
        ("postgresql://localhost/d?service=production", False),
    ],
)
def test_what_is_another_machine(url, local, monkeypatch):
    assert fake.is_local(sa.make_url(url)) is local
    monkeypatch.setenv("PGHOST", "db.example.com")
    assert fake.is_local(sa.make_url(url)) is url.startswith("sqlite")
