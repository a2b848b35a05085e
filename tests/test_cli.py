"""`flask users` and `flask tokens`."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import db
from app.models import AccessToken, User
from tests.helpers import PASSWORD, ROOT, basic, bearer


@pytest.fixture
def flask(app):
    """Return a function that runs a command with the input `typed` and returns its output."""
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
def test_users_create_applies_the_same_rules_as_the_api(
    flask, app, alice, username, email, password, message
):
    output = flask("users", "create", username, email, typed=f"{password}\n", fails=True)
    assert output.startswith(f"Error: {message}")
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count(User.id))) == 1


def test_users_list_prints_one_line_per_user(flask, app, alice, bob):
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


def test_a_recount_puts_the_number_of_users_right(app, flask, client, alice, bob):
    flask("users", "deactivate", "bob")
    assert flask("users", "recount") == "0 rows were wrong\n"
    with app.app_context():
        rows = [{"username": name, "email": name} for name in ("carol", "dave")]
        db.session.execute(sa.insert(User), rows)
        db.session.delete(db.session.get(User, bob))  # was not counted any more
        db.session.commit()
    assert flask("users", "recount") == "1 row was wrong\n"
    assert flask("users", "recount") == "0 rows were wrong\n"
    page = client.get("/api/users", headers=basic("alice")).json
    assert page["_meta"]["total_items"] == 3


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
    of_bob = flask("tokens", "create", "bob", "phone", "--scope", "read").strip()
    assert flask("tokens", "revoke", "alice") == "1 token ended\n"
    assert client.get("/api/users/me", headers=bearer(tokens["alice"])).status_code == 401
    for text in (tokens["bob"], of_bob):
        assert client.get("/api/users/me", headers=bearer(text)).status_code == 200


def test_tokens_revoke_all_ends_the_tokens_of_all_users(flask, client, alice, bob, log_in):
    tokens = [log_in(name) for name in ("alice", "bob")]
    assert flask("tokens", "revoke", "--all") == "2 tokens ended\n"
    for token in tokens:
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


@pytest.mark.parametrize("args", [(), ("alice", "--all")])
def test_tokens_revoke_requires_either_a_user_or_all(flask, client, alice, token, args):
    assert "name a user, or say --all" in flask("tokens", "revoke", *args, fails=True)
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


def test_an_empty_name_does_not_revoke_the_tokens_of_everybody(flask, client, alice, token):
    output = flask("tokens", "revoke", "--all", "--name", "", fails=True)
    assert "name a user, or say --all" in output
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


def test_tokens_create_prints_only_the_text_of_the_access_token(flask, client, alice):
    output = flask("tokens", "create", "alice", "backup", "--scope", "read", "--expires-in", "600")
    text = output.removesuffix("\n")
    assert client.get("/api/tokens", headers=bearer(text)).json["scope"] == "read"
    assert client.get("/api/tokens", headers=bearer(text)).json["expires_in"] <= 600


def test_tokens_create_takes_a_limit_that_tokens_list_shows(flask, client, alice):
    limited = ("backup", "--scope", "read", "--limit", "2 per minute")
    text = flask("tokens", "create", "alice", *limited).strip()
    flask("tokens", "create", "alice", "free", "--scope", "read")
    statuses = [client.get("/api/users", headers=bearer(text)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    lines = flask("tokens", "list", "alice").splitlines()
    assert [line.split("\t")[5] for line in lines] == ["2 per minute", "no limit"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backup", "--scope", "admin"), "scope: must be one or more of: read write introspect"),
        (("", "--scope", "read"), "name: must be 1 to 64 characters long"),
        (("backup", "--scope", "read", "--expires-in", "1"), "expires_in: must be"),
        (("backup", "--scope", "read", "--limit", "many"), "limit: must be a number per time"),
        (("taken", "--scope", "read"), "name: another live token of the user has it"),
        (("second", "--scope", "read"), "limit of 1 access tokens reached"),
    ],
)
def test_tokens_create_refuses_invalid_values_and_tokens_over_the_limit(
    flask, app, alice, arguments, message
):
    flask("tokens", "create", "alice", "taken", "--scope", "read")
    app.config["ACCESS_TOKENS_PER_USER"] = 1
    output = flask("tokens", "create", "alice", *arguments, fails=True)
    assert output.startswith(f"Error: {message}")


def test_tokens_create_refuses_a_deactivated_user(flask, alice):
    flask("users", "deactivate", "alice")
    output = flask("tokens", "create", "alice", "x", "--scope", "read", fails=True)
    assert output == "Error: the user is deactivated\n"


def test_access_tokens_are_listed_without_their_text(app, flask, client, alice):
    text = flask("tokens", "create", "alice", "a", "--scope", "write read").strip()
    with app.app_context():  # a name that an older version accepted
        db.session.execute(sa.update(AccessToken).values(name="a\nb"))
        db.session.commit()
    with client.get("/api/users/me", headers=bearer(text)):
        pass
    flask("tokens", "create", "alice", "new", "--scope", "introspect")
    first, second = (line.split("\t") for line in flask("tokens", "list", "alice").splitlines())
    assert first[1:3] == ["a\\nb", "read write"]
    assert first[4] != "never"
    assert (second[1], second[4]) == ("new", "never")
    assert text not in flask("tokens", "list", "alice")


def test_one_access_token_is_revoked_by_its_name(flask, client, alice, bob, token):
    texts = {
        name: flask("tokens", "create", "alice", name, "--scope", "read").strip()
        for name in ("phone", "laptop", "phone 2")
    }
    of_bob = flask("tokens", "create", "bob", "phone", "--scope", "read").strip()
    assert flask("tokens", "revoke", "alice", "--name", "phone") == "1 token ended\n"
    assert client.get("/api/users/me", headers=bearer(texts["phone"])).status_code == 401
    for text in (texts["laptop"], texts["phone 2"], token, of_bob):
        assert client.get("/api/users/me", headers=bearer(text)).status_code == 200
    output = flask("tokens", "revoke", "alice", "--name", "fone", fails=True)
    assert output == "Error: the user has no access token with the name 'fone'\n"
    assert flask("tokens", "revoke", "alice") == "3 tokens ended\n"


def test_tokens_are_listed_in_the_order_in_which_they_were_made(flask, client, alice):
    names = ["first", "second", "third"]
    lifetimes = ["31000000", "30999000", "30998000"]
    texts = [
        flask("tokens", "create", "alice", name, "--scope", "read", "--expires-in", seconds).strip()
        for name, seconds in zip(names, lifetimes, strict=True)
    ]
    # The use is noted when the response is closed; PostgreSQL writes the row elsewhere.
    client.get("/api/users/me", headers=bearer(texts[0])).close()
    with time_machine.travel(datetime.now(UTC) + timedelta(days=357)):  # they expire soon
        for command in (("tokens", "list", "alice"), ("tokens", "doctor")):
            assert [line.split("\t")[1] for line in flask(*command).splitlines()] == names


def test_expired_tokens_are_deleted_1000_at_a_time(app, alice):
    row = {"user_id": alice, "name": "old", "scope": "read"}
    row |= dict.fromkeys(("created", "token_expiration"), datetime.now(UTC) - timedelta(days=31))
    with app.app_context():
        rows = [row | {"digest": number.to_bytes(32, "big")} for number in range(1001)]
        db.session.execute(sa.insert(AccessToken), rows)
        db.session.commit()
        assert list(AccessToken.prune(datetime.now(UTC))) == [1000, 1]


def test_tokens_that_expired_long_ago_are_deleted_in_batches(
    flask, client, alice, monkeypatch, statements
):
    monkeypatch.setattr("app.models.stored_token.PRUNE_BATCH", 2)
    now = datetime.now(UTC)
    short = ("--scope", "read", "--expires-in", "60")
    first, *_ = [flask("tokens", "create", "alice", f"old {n}", *short).strip() for n in range(5)]
    client.get("/api/users/me", headers=bearer(first)).close()  # as above
    flask("tokens", "create", "alice", "live", "--scope", "read", "--expires-in", "31000000")
    with time_machine.travel(now + timedelta(days=29)):
        assert flask("tokens", "prune") == "0 tokens deleted\n"
    with time_machine.travel(now + timedelta(days=31)):
        assert flask("tokens", "prune", "--days", "40") == "0 tokens deleted\n"
        statements.clear()
        assert flask("tokens", "prune") == "5 tokens deleted\n"
        assert sum(one.startswith("DELETE FROM access_token") for one in statements) == 3
    assert len(flask("tokens", "list", "alice").splitlines()) == 1


def test_tokens_doctor_lists_unused_and_expiring_tokens_and_tokens_of_a_former_key(
    flask, app, client, alice, token
):
    now = datetime.now(UTC)
    year = ("--scope", "read", "--expires-in", "31000000")
    texts = {
        name: flask("tokens", "create", "alice", name, *year).strip() for name in ("idle", "busy")
    }
    flask("tokens", "create", "alice", "short", "--scope", "read", "--expires-in", "864000")
    assert flask("tokens", "doctor") == ""
    with time_machine.travel(now + timedelta(hours=25)):
        assert flask("tokens", "doctor").splitlines() == [
            "alice\tidle\tnever used",
            "alice\tbusy\tnever used",
            "alice\tshort\tnever used",
        ]
    with time_machine.travel(now + timedelta(days=9)):
        expected = "alice\tshort\tnever used, expires within 7 days"
        assert expected in flask("tokens", "doctor").splitlines()
    for text in texts.values():
        with client.get("/api/users/me", headers=bearer(text)):
            pass
    with time_machine.travel(now + timedelta(days=91)):
        with client.get("/api/users/me", headers=bearer(texts["busy"])):
            pass
        assert flask("tokens", "doctor") == "alice\tidle\tnot used for 90 days\n"
    app.config.update(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[app.config["SECRET_KEY"]])
    assert "1 token sealed under a former SECRET_KEY" in flask("tokens", "doctor")
    with time_machine.travel(now + timedelta(hours=2)):
        assert "sealed" not in flask("tokens", "doctor")


def test_tokens_doctor_names_rotated_tokens_whose_old_text_is_used(flask, client, alice):
    old = flask("tokens", "create", "alice", "backup", "--scope", "read").strip()
    (fields,) = (line.split("\t") for line in flask("tokens", "list", "alice").splitlines())
    path, body = f"/api/access-tokens/{fields[0]}/rotation", {"overlap_seconds": 3 * 24 * 3600}
    assert client.post(path, json=body, headers=basic("alice")).status_code == 200
    assert flask("tokens", "doctor") == ""
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=25)):
        assert flask("tokens", "doctor") == "alice\tbackup\tnever used\n"  # not each text of it
    with client.get("/api/users/me", headers=bearer(old)):
        pass
    finding = "rotated, but the old text is used; it expires in 3.0 days"
    assert flask("tokens", "doctor") == f"alice\tbackup\t{finding}\n"
    assert len(flask("tokens", "list", "alice").splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        ("users", "deactivate"),
        ("users", "activate"),
        ("users", "password"),
        ("tokens", "revoke"),
        ("tokens", "list"),
    ],
)
def test_an_unknown_user_is_named_in_the_error_message(flask, command):
    output = flask(*command, "nobody", fails=True)
    assert output == "Error: no user has the user name or e-mail address 'nobody'\n"


@pytest.mark.slow
def test_input_that_is_not_utf_8_is_refused(config_class, app, alice):
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

    assert flask("users", "deactivate", b"\xff\xfe", typed=b"").startswith("Error: no user has ")
    error = flask("users", "password", "alice", typed=b"abc\xffdefghijk\n")
    assert error == "Error: password: must be in UTF-8\n"


@pytest.mark.slow
def test_standard_input_and_output_that_cannot_be_used_are_one_line(config_class, app, alice):
    environment = {
        **os.environ,
        "DATABASE_URL": config_class.SQLALCHEMY_DATABASE_URI,
        "SECRET_KEY": config_class.SECRET_KEY,
    }

    def flask(command):
        ended = subprocess.run(
            ["sh", "-c", f'"$0" -m flask --app microblog_api {command}', sys.executable],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stderr.splitlines()[-1], len(ended.stderr.splitlines())

    reason = "No space left on device"
    text = f"Error: cannot read or write: {reason}; a change may have been made"
    assert flask("users list > /dev/full") == (1, text, 1)
    text = f"Error: the token was created, but cannot be written: {reason}; revoke it with --name"
    assert flask("tokens create alice t --scope read > /dev/full") == (1, text, 2)  # and audit
    text = "Error: password: standard input is closed"
    assert flask("users password alice <&-") == (1, text, 1)


def test_a_role_without_privileges_is_one_line(flask, app, alice):
    if app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"):
        pytest.skip("SQLite has no roles")

    def take_role(connection):
        connection.exec_driver_sql("SET LOCAL ROLE pg_monitor")

    with app.app_context():
        engine = db.engine
    sa.event.listen(engine, "begin", take_role)
    try:
        output = flask("users", "list", fails=True)
    finally:
        sa.event.remove(engine, "begin", take_role)
    assert output == "Error: cannot use the database: permission denied for table user\n"


def test_commands_that_change_accounts_or_revoke_tokens_are_in_the_audit_log(flask, alice, events):
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


@pytest.mark.slow
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


COMMANDS = [
    ("users", "list"),
    ("users", "deactivate", "alice"),
    ("tokens", "doctor"),
    ("tokens", "prune"),
    ("fake", "users", "2"),
    ("fake", "posts", "2"),  # microblog
]


def run_with(database_url, *args):
    environment = {**os.environ, "DATABASE_URL": database_url, "SECRET_KEY": "key"}
    command = [sys.executable, "-m", "flask", "--app", "microblog_api", *args]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("args", COMMANDS)
def test_a_database_without_tables_is_one_line(empty_database, tmp_path, args):
    (tmp_path / "new.db").touch()
    url = f"sqlite:///{tmp_path}/new.db"
    if empty_database.startswith("postgresql"):
        url = sa.make_url(empty_database).update_query_dict({"options": "-csearch_path=nowhere"})
        url = url.render_as_string(hide_password=False)
    process = run_with(url, *args)
    assert process.returncode == 1
    assert process.stdout.strip() == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("Error: the database has no tables (")
    assert line.endswith("; run `flask db upgrade`")


@pytest.mark.slow
@pytest.mark.parametrize("args", COMMANDS)
@pytest.mark.parametrize("url", ["sqlite:////nowhere/app.db", "postgresql://127.0.0.1:1/app"])
def test_a_database_that_cannot_be_used_is_one_line(url, args):
    process = run_with(url, *args)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("Error: cannot use the database: ")


def test_any_other_mistake_with_the_database_is_not_hidden(app, monkeypatch):
    monkeypatch.setattr("app.cli.users.User.id", sa.literal_column("1 +"))
    result = app.test_cli_runner().invoke(args=["users", "list"])
    assert isinstance(result.exception, sa.exc.DBAPIError)
