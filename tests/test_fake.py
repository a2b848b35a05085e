"""`flask fake users`: the users, their total, and the refusal of a remote database."""

import pytest
import sqlalchemy as sa

from app import db
from app.cli import fake
from app.models import User
from tests.helpers import PASSWORD, basic


@pytest.fixture
def run(app):
    return lambda *arguments: app.test_cli_runner().invoke(args=["fake", *arguments])


def test_it_makes_users_who_are_counted(client, alice, run, monkeypatch):
    monkeypatch.setattr(fake, "BATCH", 30)
    assert run("users", "70").exit_code == 0
    page = client.get("/api/users?per_page=100", headers=basic("alice")).json
    assert len(page["items"]) == page["_meta"]["total_items"] == 71


def test_fake_users_can_run_twice(run):
    for _ in range(2):
        assert run("users", "5").exit_code == 0


def test_a_fake_user_cannot_log_in(app, client, run):
    run("users", "1")
    with app.app_context():
        name = db.session.scalar(sa.select(User.username))
    for password in ("", "password", PASSWORD, name):
        assert client.post("/api/tokens", headers=basic(name, password)).status_code == 401


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5"])
def test_a_count_must_be_a_positive_whole_number(run, count):
    result = run("users", "--", count)
    assert result.exit_code == 2
    assert "COUNT" in result.output


def test_a_remote_database_is_filled_only_with_the_option_yes(run, monkeypatch):
    monkeypatch.setattr(fake, "is_local", lambda _: False)
    result = run("users", "1")
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
def test_is_local_distinguishes_local_from_remote_databases(url, local, monkeypatch):
    assert fake.is_local(sa.make_url(url)) is local
    monkeypatch.setenv("PGHOST", "db.example.com")
    assert fake.is_local(sa.make_url(url)) is url.startswith("sqlite")
