"""`flask move-in`: from a tutorial application, and from one database of ours to another."""

import csv
import hashlib
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
import time_machine

from app import db
from app.cli import move_in as command_module
from app.cli.move_in.databases import open_target
from app.models import User
from app.security import tokens
from tests.helpers import PASSWORD, ROOT, basic, bearer
from tests.move_in import SOURCES, rows_at, tutorial_at
from tests.sessions import blocks
from tests.tutorial import EDITIONS

pytestmark = pytest.mark.slow  # each makes and migrates databases


@pytest.fixture
def flask(app):
    """Return a function that runs a command and returns its output."""

    def flask(*args, fails=False):
        result = app.test_cli_runner().invoke(args=args)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert (result.exit_code != 0) == fails, result.output
        return result.output

    return flask


@pytest.fixture(params=SOURCES)
def kind(request):
    return request.param


@pytest.fixture
def source(kind, tmp_path):
    """A tutorial application of 2024 with three users on each kind of database."""
    with tutorial_at(kind, tmp_path) as application:
        yield application.fill()


@pytest.fixture
def tutorial(tmp_path):
    """The same, on SQLite alone: for what does not depend on the database."""
    with tutorial_at("sqlite", tmp_path) as application:
        yield application.fill()


@pytest.fixture
def move_in(flask):
    def move_in(source, *options, fails=False):
        return flask("move-in", source.url, "--copy", *options, fails=fails)

    return move_in


# -- Users and their tokens ----------------------------------------------------------------


@pytest.mark.parametrize("edition", EDITIONS)
def test_the_users_of_each_edition_stay_who_they_are(client, move_in, kind, tmp_path, edition):
    with tutorial_at(kind, tmp_path, edition) as source:
        source.fill()
        rows = source.run(f"SELECT id, username, last_seen FROM {source.user}")
        output = move_in(source)
    assert "user: 3 rows; 1 are logged in, and stay so" in output
    for id, name, last_seen in rows:
        password = {"susan": "cat", "john": "dog", "david": "fish"}[name]
        shown = client.get("/api/users/me", headers=basic(name, password)).json
        assert (shown["id"], shown["username"]) == (id, name)
        assert (shown["email"], shown["about_me"]) == (f"{name}@example.com", f"I am {name}.")
        # Read as UTC.
        assert shown["last_seen"][:19] == str(last_seen)[:19].replace(" ", "T")
        assert shown["last_seen"].endswith(("Z", "+00:00"))


@pytest.mark.parametrize("edition", EDITIONS)
def test_a_live_token_works_under_its_old_text_until_it_expires(
    client, move_in, tmp_path, edition, works
):
    with tutorial_at("sqlite", tmp_path, edition) as source:
        token = source.fill().token_of("susan")
        move_in(source)
    assert works(token)
    shown = client.get("/api/users/me", headers=bearer(token)).json
    assert shown["username"] == "susan"
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=61)):
        assert not works(token)


def test_a_log_in_hands_out_the_old_text_while_it_is_good(client, move_in, tutorial):
    token = tutorial.token_of("susan")
    move_in(tutorial)
    answer = client.post("/api/tokens", headers=basic("susan", "cat")).json
    assert answer["token"] == token
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=60)):
        new = client.post("/api/tokens", headers=basic("susan", "cat")).json["token"]
    assert new.startswith(tokens.LOGIN_PREFIX)


@pytest.mark.parametrize("how", ["log out", "password", "deactivation", "command"])
def test_what_ends_a_token_ends_the_old_text(client, move_in, flask, tutorial, works, how):
    token = tutorial.token_of("susan")
    move_in(tutorial)
    assert works(token)
    if how == "log out":
        assert client.delete("/api/tokens", headers=bearer(token)).status_code == 204
    elif how == "password":
        body = {"current_password": "cat", "new_password": PASSWORD}
        path = "/api/users/1/password"
        assert client.put(path, json=body, headers=basic("susan", "cat")).status_code == 204
    elif how == "deactivation":
        flask("users", "deactivate", "susan")
    else:
        flask("tokens", "revoke", "susan")
    assert not works(token)


def test_a_log_in_replaces_an_old_text_whose_log_in_nobody_knows(client, move_in, tutorial, works):
    tutorial.run("UPDATE user SET token_expiration = '2999-01-01 00:00:00.000000'")
    token = tutorial.token_of("susan")
    move_in(tutorial)
    assert works(token)
    new = client.post("/api/tokens", headers=basic("susan", "cat")).json["token"]
    assert new != token
    assert not works(token)


def test_an_old_text_is_not_renewed(client, move_in, tutorial, works):
    # Backups of the tutorial's database have it as it is.
    token = tutorial.token_of("susan")
    move_in(tutorial)
    assert client.put("/api/tokens", headers=bearer(token)).status_code == 401
    assert works(token)


def test_an_old_text_is_sealed_and_other_services_may_ask_whose_it_is(
    app, client, move_in, tutorial, register, log_in
):
    token = tutorial.token_of("susan")
    move_in(tutorial)
    with app.app_context():
        stored = db.session.scalar(
            sa.select(sa.type_coerce(User.token, sa.LargeBinary)).where(User.username == "susan")
        )
        assert token.encode() not in bytes(stored)
        assert tokens.unseal(bytes(stored)) == token
    register("service")
    made = client.post(
        "/api/access-tokens",
        json={"name": "site", "scope": "introspect"},
        headers=basic("service"),
    )
    answer = client.post(
        "/api/tokens/introspect", data={"token": token}, headers=bearer(made.json["token"])
    )
    assert (answer.json["active"], answer.json["username"]) == (True, "susan")


def test_a_text_that_was_never_a_token_is_refused_with_one_select(client, app, statements):
    assert client.get("/api/users/me", headers=bearer("0" * 32)).status_code == 401
    assert len(statements) == 1
    with app.app_context():
        assert User.check_token("0" * 32) is None


@pytest.mark.parametrize("text", ["0" * 31, "0" * 33, "0" * 31 + "_", "0" * 31 + "\u0660", ""])
def test_a_text_of_another_shape_costs_no_select(app, statements, text):
    with app.app_context():
        assert User.check_token(text) is None
    assert statements == []


def test_a_token_that_has_expired_or_has_another_form_is_not_copied(move_in, tutorial, works):
    former = tutorial.token_of("susan")
    tutorial.run("UPDATE user SET token_expiration = '2020-01-01 00:00:00.000000'")
    tutorial.run(
        "UPDATE user SET token = 'a-token-of-ones-own', token_expiration ="
        " '2999-01-01 00:00:00.000000' WHERE username = 'john'"
    )
    output = move_in(tutorial)
    assert "; 0 are logged in, and stay so; 1 have tokens of another form" in output
    assert not works(former)
    assert not works("a-token-of-ones-own")


def test_a_token_of_the_tutorial_is_a_log_in_of_the_last_hour(client, move_in, tutorial):
    # The tutorial's live for an hour; when a longer one was made, nobody knows.
    tutorial.add_users(1, logged_in=1)
    tutorial.run(
        "UPDATE user SET token_expiration = datetime('now', '+5 hours') || '.000000'"
        " WHERE username = 'user1'"
    )
    found = {name: tutorial.token_of(name) for name in ("susan", "user1")}
    move_in(tutorial)
    for name, status in (("susan", 201), ("user1", 401)):
        body = {"name": "script", "scope": "read"}
        answer = client.post("/api/access-tokens", json=body, headers=bearer(found[name]))
        assert answer.status_code == status


# -- The commands --------------------------------------------------------------------------


def test_without_copy_it_is_only_said_what_would_be_copied(app, flask, source):
    output = flask("move-in", source.url)
    assert "user: 3 rows; 1 are logged in, and stay so" in output
    for line in (
        "not copied: table message",
        "not copied: table notification",
        "not copied: table task",
        "not copied: column user.last_message_read_time",
    ):
        assert line in output
    assert output.endswith("Nothing was copied. To copy, repeat this with --copy.\n")
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count(User.id))) == 0


def test_the_source_is_only_read(move_in, tutorial):
    path = Path(sa.make_url(tutorial.url).database)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    move_in(tutorial)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def test_new_users_get_new_ids_and_are_counted(client, move_in, source, register, log_in):
    move_in(source)
    assert register("alice") == 4
    page = client.get("/api/users", headers=bearer(log_in("alice"))).json
    assert (page["_meta"]["total_items"], len(page["items"])) == (4, 4)


def test_a_second_copy_brings_what_has_changed(client, move_in, source, works):
    move_in(source)
    source.run(f"UPDATE {source.user} SET about_me = 'changed' WHERE username = 'john'")
    with source.app.app_context():
        session, model = source.db.session, source.models.User
        david = session.scalar(sa.select(model).where(model.username == "david"))
        token = david.get_token()
        session.commit()
    source.add_users(1)
    assert "4 rows; 2 are logged in" in move_in(source)
    assert works(token)
    shown = client.get("/api/users/me", headers=basic("john", "dog")).json
    assert shown["about_me"] == "changed"
    assert client.get("/api/users/me", headers=basic("user1", "cat")).status_code == 200


def test_a_second_copy_brings_names_that_were_swapped(client, move_in, tutorial):
    move_in(tutorial)
    for old, new in (("susan", "x"), ("john", "susan"), ("x", "john")):
        tutorial.run("UPDATE user SET username = :new WHERE username = :old", old=old, new=new)
    assert "begins anew" in move_in(tutorial)
    assert client.get("/api/users/me", headers=basic("john", "cat")).json["id"] == 1
    assert client.get("/api/users/me", headers=basic("susan", "dog")).json["id"] == 2


def test_a_copy_that_was_used_is_not_overwritten(client, move_in, tutorial, register):
    move_in(tutorial)
    register("alice")
    output = move_in(tutorial, fails=True)
    assert re.search(r"the database is used already \(.*user\), and a copy would lose that", output)
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200


@pytest.mark.parametrize("use", ["deactivate", "grant", "revoke", "token", "password", "register"])
def test_whatever_the_server_has_done_no_copy_undoes_it(
    client, flask, move_in, tutorial, register, use
):
    token = tutorial.token_of("susan")
    move_in(tutorial)
    if use == "deactivate":
        flask("users", "deactivate", "david")
    elif use == "grant":
        flask("users", "grant", "john", "admin")
    elif use == "revoke":
        flask("tokens", "revoke", "--all")
    elif use == "token":
        with client.get("/api/users/me", headers=bearer(token)) as answer:  # noted when it ends
            assert answer.status_code == 200
    elif use == "password":
        assert client.get("/api/users/me", headers=basic("john", "dog")).status_code == 200
    else:
        register("alice")
    assert "the database is used already" in move_in(tutorial, fails=True)


def test_a_user_who_registers_during_the_copy_is_kept_and_named(
    client, move_in, tutorial, register, monkeypatch
):
    copy_all = command_module.copy_all

    def register_first(*args):
        register("alice")
        return copy_all(*args)

    move_in(tutorial)
    monkeypatch.setattr(command_module, "copy_all", register_first)
    output = move_in(tutorial, fails=True)
    assert "user differs from the source (4 rows instead of 3); is the server on?" in output
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200
    monkeypatch.undo()
    assert "the database is used already" in move_in(tutorial, fails=True)


def test_the_source_is_read_as_it_was_when_the_command_began(app, move_in, source, monkeypatch):
    copy_all = command_module.copy_all

    def add_first(*args):
        source.add_users(1)
        return copy_all(*args)

    monkeypatch.setattr(command_module, "copy_all", add_first)
    move_in(source)
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count(User.id))) == 3
    monkeypatch.undo()
    assert "user: 4 rows" in move_in(source)


@pytest.mark.parametrize("id", [0, -7, 2**40])
def test_a_user_with_any_id_logs_in_and_out(client, move_in, tutorial, works, id):
    tutorial.run("UPDATE user SET id = :id WHERE username = 'david'", id=id)
    move_in(tutorial, "--leave-out")  # what refers to the former id
    token = client.post("/api/tokens", headers=basic("david", "fish")).json["token"]
    assert client.get("/api/users/me", headers=bearer(token)).json["id"] == id
    assert client.delete("/api/tokens", headers=bearer(token)).status_code == 204
    assert not works(token)


def test_what_differs_after_the_copy_is_noticed(app, move_in, tutorial, monkeypatch):
    def change(*_):
        db.session.execute(sa.update(User).where(User.id == 2).values(email="x@example.com"))
        db.session.commit()

    monkeypatch.setattr(command_module, "copy_sequences", change)
    assert "user differs from the source (3 rows instead of 3)" in move_in(tutorial, fails=True)


def test_two_at_once_are_one_and_a_refusal(app, move_in, tutorial):
    with app.app_context(), open_target():
        assert "another `flask move-in` uses the database" in move_in(tutorial, fails=True)
    move_in(tutorial)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("app.db", "SOURCE_URL is no URL of a database: sqlite:///, postgresql:// or mysql://"),
        ("mssql://root:secret@h/x", "SOURCE_URL is no URL of a database"),
        ("postgresql://a:1,b:2/x", "SOURCE_URL is no URL of a database"),
        ("sqlite:////nowhere/app.db", "there is no file /nowhere/app.db"),
        ("sqlite://", "there is no file"),
        ("mysql://root:secret@127.0.0.1:1/x", "cannot read mysql://root:***@127.0.0.1:1/x: "),
        ("postgresql://x:secret@127.0.0.1:1/x", "cannot read postgresql://x:***@127.0.0.1:1/x: "),
        ("postgresql://127.0.0.1:1/x?password=secret", "cannot read postgresql://127.0.0.1:1/x: "),
        ("mysql://127.0.0.1:1/x?strange=1", "cannot read mysql://127.0.0.1:1/x: "),
    ],
)
def test_a_source_that_cannot_be_opened_is_named_in_one_line(flask, url, message):
    output = flask("move-in", url, fails=True)
    assert message in output
    assert output.count("\n") == 1
    assert "secret" not in output


def test_a_file_that_is_no_database_of_a_tutorial_application_is_refused(flask, tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(b"")
    output = flask("move-in", f"sqlite:///{path}", fails=True)
    assert "is the database of neither a tutorial application nor this API" in output
    path.write_text("no database, but a text of some length " * 100)
    assert "file is not a database" in flask("move-in", f"sqlite:///{path}", fails=True)


@pytest.mark.slow
def test_the_page_moves_a_tutorial_database(tutorial, tmp_path):
    page = (ROOT / "docs" / "from-the-tutorial.md").read_text()
    lines = "".join(blocks(page[page.index("## Move the data") :], "sh"))
    lines = lines.replace("sqlite:////path/to/microblog/app.db", tutorial.url)
    lines = lines.replace("postgresql://microblog:password@localhost/microblog", "$OTHER")
    lines = lines.replace("sqlite:///app.db", "$DATABASE_URL_OF_BEFORE")
    # As the key is set here, its line is left out.
    lines = lines.replace("export SECRET_KEY=$(cat instance/secret_key)\n", "")
    # Its virtual environment, and the step that the page describes in words.
    lines = lines.replace(". .venv/bin/activate", f"PATH={Path(sys.executable).parent}:$PATH")
    lines = lines.replace("names.csv\n", "names.csv --copy\n")
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "other")]
    environment = {"DATABASE_URL": urls[0], "DATABASE_URL_OF_BEFORE": urls[0], "OTHER": urls[1]}
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=lines,
        cwd=ROOT,
        env={**os.environ, "SECRET_KEY": "of the tests, long enough for no warning", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("has all of it, verified.\n") == 2
    assert rows_at(urls[0])["user"] == rows_at(urls[1])["user"]
    # What the page shows has the form of what is printed.
    (shown,) = re.findall(r"^      not copied: .*?--copy\.$", page, re.MULTILINE | re.DOTALL)
    shown, printed = (re.sub("[0-9][0-9,]*", "1", text) for text in (shown, done.stdout))
    for line in shown.splitlines():
        assert line.strip() in printed or "left out" in line


# -- Names that cannot stay ----------------------------------------------------------------


@pytest.fixture
def clashing(tutorial):
    """Users whose names or addresses cannot be stored here."""
    for name, email in (
        ("Susan", "other@example.com"),
        ("fine", "JOHN@example.com"),
        ("", "empty@example.com"),
        ("x" * 70, ""),
    ):
        tutorial.run("INSERT INTO user (username, email) VALUES (:n, :e)", n=name, e=email)
    return tutorial


def test_users_who_cannot_be_copied_are_named_and_none_is_copied(app, move_in, clashing):
    output = move_in(clashing, fails=True)
    for line in (
        "user 4: the user name 'Susan' is that of user 1, but for upper and lower case",
        "user 5: the address 'JOHN@example.com' is that of user 2, but for upper and lower case",
        "user 6: the user name '' is empty",
        "is longer than 64 characters; the address '' is empty",
        "Error: 4 users cannot be copied as they are; --resolve FILE writes proposals for them",
    ):
        assert line in output
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count(User.id))) == 0


def test_a_file_with_proposals_is_written_and_then_used(app, move_in, clashing, tmp_path):
    file = tmp_path / "names.csv"
    output = move_in(clashing, "--resolve", str(file), fails=True)
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"{file} has proposals: edit it, and repeat this" in output
    with file.open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["id", "username", "email"],
        ["4", "Susan-4", ""],  # the address stays
        ["5", "", "JOHN+5@example.com"],
        ["6", "user-6", ""],
        ["7", "x" * 62 + "-7", "7@address.invalid"],
    ]
    rows[1][1] = "Suzanne"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    move_in(clashing, "--resolve", str(file))
    with app.app_context():
        names = dict(db.session.execute(sa.select(User.id, User.username).where(User.id > 3)).all())
    assert names == {4: "Suzanne", 5: "fine", 6: "user-6", 7: "x" * 62 + "-7"}


def test_a_name_that_is_the_address_of_another_cannot_stay(move_in, tutorial):
    tutorial.run("UPDATE user SET username = 'Susan@example.com' WHERE username = 'david'")
    output = move_in(tutorial, fails=True)
    assert "user 3: the user name 'Susan@example.com' is the address of user 1" in output


@pytest.mark.parametrize(
    ("one", "other"), [("\u0391\u03a3", "\u03b1\u03c3"), ("\u0130x", "ix"), ("Ärger", "ärger")]
)
def test_names_that_some_database_takes_for_the_same_are_named(move_in, tutorial, one, other):
    tutorial.run("UPDATE user SET username = :one WHERE username = 'john'", one=one)
    tutorial.run("UPDATE user SET username = :other WHERE username = 'david'", other=other)
    assert "is that of user 2, but for upper and lower case" in move_in(tutorial, fails=True)


ODD = {
    "time": "UPDATE user SET last_seen = 'x', token_expiration = ''",
    "number": "UPDATE user SET last_seen = 2024, token_expiration = 5",
    "bytes": "UPDATE user SET about_me = x'ff', token = x'00ff' || id",
    "hash": "UPDATE user SET password_hash = 'a' || char(0)",
    "long hash": "UPDATE user SET password_hash = printf('%.300c', 'x')",
    "time of a post": "UPDATE post SET timestamp = 'x'",
    "text of a post": "UPDATE post SET body = x'00ff'",
    "no time": "ALTER TABLE post DROP COLUMN language",
    "no posts": "DROP TABLE post",
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_values_are_left_out_and_no_error(app, move_in, tutorial, odd):
    tutorial.run(ODD[odd])
    move_in(tutorial, "--leave-out")
    with app.app_context():
        users = db.session.scalars(sa.select(User).order_by(User.id)).all()
        assert [user.username for user in users] == ["susan", "john", "david"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be id,username,email"),
        ("id,name\n", "the first line must be id,username,email"),
        ("id,username,email\nx,a,b\n", "line 2: 'x' is no id of a user"),
        ("id,username,email\n99,a,b\n", "there is no user with the id 99"),
        ("id,username,email\n4,JOHN,\n", "user 4: the user name 'JOHN' is that of user 2"),
        (
            "id,username,email\n4,jo\0hn,\n",
            "user 4: the user name 'jo\\x00hn' has a character that",
        ),
    ],
)
def test_a_wrong_file_is_named(move_in, clashing, tmp_path, text, message):
    file = tmp_path / "names.csv"
    file.write_text(text)
    assert message in move_in(clashing, "--resolve", str(file), fails=True)


def test_a_text_about_oneself_that_is_too_long_is_cut_if_that_is_allowed(client, move_in, tutorial):
    tutorial.run("UPDATE user SET about_me = :text WHERE username = 'john'", text="x" * 200)
    output = move_in(tutorial, fails=True)
    assert "left out: 1 texts in about_me, or their ends beyond 140 characters" in output
    assert "some rows cannot be copied; --leave-out copies the others" in output
    move_in(tutorial, "--leave-out")
    shown = client.get("/api/users/me", headers=basic("john", "dog")).json
    assert shown["about_me"] == "x" * 140
