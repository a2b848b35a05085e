"""`flask users` and `flask tokens`."""

import json
import os
import subprocess
import sys

import pytest
import sqlalchemy as sa

from app import db
from app.models import User
from tests.helpers import PASSWORD, ROOT, basic, bearer


@pytest.fixture
def flask(app):
    """The output of a command; what is typed into it is `typed`."""
    runner = app.test_cli_runner()

    def flask(*args, typed=None, fails=False):
        result = runner.invoke(args=args, input=typed)
        assert (result.exit_code != 0) == fails, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.output

    return flask


def test_a_user_is_created_with_a_password_from_the_standard_input(flask, client):
    assert "alice has the id" in flask("users", "create", "alice", "alice@x.com", typed=PASSWORD)
    assert client.get("/api/users/me", headers=basic("alice")).json["email"] == "alice@x.com"


@pytest.mark.parametrize(
    ("username", "email", "password", "message"),
    [
        ("a b", "a@example.com", PASSWORD, "username: must be 1 to 64"),
        ("bob", "nowhere", PASSWORD, "email: must be a valid email address"),
        ("bob", "b@example.com", "short", "password: must be 8 to 256"),
        ("bob", "b@example.com", "", "password: must be 8 to 256"),
        ("bob", "b@example.com", "iloveyou", "password: must be other than the most common"),
        ("Alice", "b@example.com", PASSWORD, "the username is already taken"),
        ("bob", "Alice@example.com", PASSWORD, "the email is already taken"),
    ],
)
def test_what_the_api_refuses_is_refused_here(
    flask, app, alice, username, email, password, message
):
    output = flask("users", "create", username, email, typed=f"{password}\n", fails=True)
    assert output.startswith(f"Error: {message}")
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count(User.id))) == 1


def test_the_list_has_everybody_on_a_line_of_their_own(flask, app, alice, bob):
    flask("users", "deactivate", "bob")
    with app.app_context():
        db.session.get(User, alice).username = "al\nice\x1b[2J"
        db.session.commit()
    assert flask("users", "list").splitlines() == [
        f"{alice}\tal\\nice\\x1b[2J\talice@example.com\tactive",
        f"{bob}\tbob\tbob@example.com\tdeactivated",
    ]


@pytest.mark.parametrize("login", ["alice", "ALICE", "alice@example.com"])
def test_a_user_is_deactivated_and_activated(flask, client, alice, token, login):
    assert flask("users", "deactivate", login) == "alice is deactivated\n"
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert flask("users", "deactivate", login) == "alice is deactivated already\n"
    assert flask("users", "activate", login) == "alice is activated\n"
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200
    assert flask("users", "activate", login) == "alice is activated already\n"


def test_a_new_password_opens_the_account_and_ends_the_token(flask, client, alice, token):
    flask("users", "password", "alice", typed="battery staple\n")
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 401
    me = client.get("/api/users/me", headers=basic("alice", "battery staple"))
    assert me.status_code == 200


@pytest.mark.parametrize("password", ["short", "password1", "Alice123", "alice@example.com"])
def test_a_weak_password_changes_nothing(flask, client, alice, token, password):
    output = flask("users", "password", "alice", typed=password, fails=True)
    assert output.startswith("Error: password: must ")
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


def test_the_token_of_one_user_is_revoked(flask, client, alice, bob, log_in):
    tokens = {name: log_in(name) for name in ("alice", "bob")}
    assert flask("tokens", "revoke", "alice") == "1 token ended\n"
    assert client.get("/api/users/me", headers=bearer(tokens["alice"])).status_code == 401
    assert client.get("/api/users/me", headers=bearer(tokens["bob"])).status_code == 200


def test_everybodys_tokens_are_revoked(flask, client, alice, bob, log_in):
    tokens = [log_in(name) for name in ("alice", "bob")]
    assert flask("tokens", "revoke", "--all") == "2 tokens ended\n"
    for token in tokens:
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


@pytest.mark.parametrize("args", [(), ("alice", "--all")])
def test_revoking_wants_a_user_or_everybody(flask, client, alice, token, args):
    assert "name a user, or say --all" in flask("tokens", "revoke", *args, fails=True)
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize(
    "command",
    [
        ("users", "deactivate"),
        ("users", "activate"),
        ("users", "password"),
        ("tokens", "revoke"),
    ],
)
def test_a_user_that_does_not_exist_is_named(flask, command):
    output = flask(*command, "nobody", fails=True)
    assert output == "Error: nobody has the user name or e-mail address 'nobody'\n"


def test_what_is_not_utf_8_is_refused(config_class, app, alice):
    environment = {
        **os.environ,
        "DATABASE_URL": config_class.SQLALCHEMY_DATABASE_URI,
        "SECRET_KEY": config_class.SECRET_KEY,
    }

    def flask(*args, typed):
        command = [sys.executable, "-m", "flask", "--app", "microblog_api", *args]
        return subprocess.run(
            command, cwd=ROOT, env=environment, input=typed, capture_output=True, check=False
        ).stderr.decode()

    assert flask("users", "deactivate", b"\xff\xfe", typed=b"").startswith("Error: nobody has ")
    error = flask("users", "password", "alice", typed=b"abc\xffdefghijk\n")
    assert error == "Error: password: must be in UTF-8\n"


def test_what_an_owner_does_is_in_the_audit_log(flask, alice, events):
    flask("users", "deactivate", "alice")
    flask("users", "deactivate", "alice")
    flask("users", "activate", "alice")
    flask("users", "password", "alice", typed="battery staple\n")
    flask("tokens", "revoke", "alice")
    flask("tokens", "revoke", "--all")
    names = ["deactivated", "activated", "password_changed", "token_revoked", "token_revoked"]
    assert [event["event"] for event in events()] == names
    assert [event["user_id"] for event in events()] == [alice] * 4 + [None]
    assert {(event["source"], event["request_id"]) for event in events()} == {(None, None)}


def test_a_command_writes_its_audit_line_to_standard_error(app, config_class, alice):
    environment = {
        **os.environ,
        "DATABASE_URL": config_class.SQLALCHEMY_DATABASE_URI,
        "SECRET_KEY": config_class.SECRET_KEY,
    }
    process = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "microblog_api", "users", "deactivate", "alice"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == "alice is deactivated\n"
    line = json.loads(process.stderr)
    assert (line["event"], line["user_id"], line["source"]) == ("deactivated", alice, None)
