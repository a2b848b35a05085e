"""`flask move-in` from one database of ours to another."""

import re

import flask_migrate
import pytest
import sqlalchemy as sa

from app import create_app, db
from app.cli import move_in as command_module
from app.clock import utc_now
from app.models import DeviceSession, OutgoingMail, ReservedName, Total, User
from tests import conftest
from tests.helpers import basic, bearer, register_user
from tests.move_in import rows_at

pytestmark = pytest.mark.slow  # each makes and migrates databases

KEY = "the key of another application, of no use"


@pytest.fixture
def other(app, config_class, empty_database, tmp_path):
    """Return a function that makes an application with an empty SQLite database."""
    made = []

    def other(name, **settings):
        uri = f"sqlite:///{tmp_path}/{name}.db"
        settings = {"SQLALCHEMY_DATABASE_URI": uri, **settings}
        made.append(create_app(type("OtherConfig", (config_class,), settings)))
        with made[-1].app_context():
            flask_migrate.upgrade()
        return made[-1]

    yield other
    for one in made:
        with one.app_context():
            db.session.remove()
            db.engine.dispose()


def url_of(app):
    return app.config["SQLALCHEMY_DATABASE_URI"]


def move_in(app, source, *, fails=False):
    result = app.test_cli_runner().invoke(args=("move-in", url_of(source), "--copy"))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code != 0) == fails, result.output
    return result.output


def fill(app):
    """Make rows of each kind; return tokens of each kind that are alive."""
    client = app.test_client()
    for name in ("alice", "bob", "carol"):
        assert register_user(client, name).status_code == 201
    alice = basic("alice")
    tokens = [client.post("/api/tokens", headers=alice).json["token"]]
    tokens.append(client.post("/api/tokens", json={"device": "x"}, headers=alice).json["token"])
    body = {"name": "script", "scope": "read write", "limit": "50 per minute"}
    made = client.post("/api/access-tokens", json=body, headers=alice).json
    path = f"/api/access-tokens/{made['id']}/rotation"
    rotated = client.post(path, json={"overlap_seconds": 3600}, headers=alice)
    tokens += [made["token"], rotated.json["token"]]
    changed = client.put("/api/users/2", json={"username": "bobby"}, headers=basic("bob"))
    assert changed.status_code == 200
    posts = [  # microblog
        client.post("/api/posts", json={"body": text}, headers=alice).json["id"]  # microblog
        for text in ("one", "two", "thr\u00e9e \U0001f41f")  # microblog
    ]  # microblog
    client.put("/api/users/me/following/2", headers=alice)  # microblog
    assert client.delete(f"/api/posts/{posts[-1]}", headers=alice).status_code == 204  # microblog
    run = app.test_cli_runner().invoke
    assert run(args=("users", "grant", "alice", "admin")).exit_code == 0
    assert run(args=("users", "deactivate", "carol")).exit_code == 0
    return tokens


def test_every_kind_of_row_is_copied_and_comes_back_equal(app, other):
    first, last = other("first"), other("last")
    tokens = fill(first)
    for target, source in ((app, first), (last, app)):
        move_in(target, source)
    before, between, after = (rows_at(url_of(each)) for each in (first, app, last))
    assert [name for name, rows in before.items() if not rows] == []
    assert after == before
    assert {name: len(rows) for name, rows in between.items()} == {
        name: len(rows) for name, rows in before.items()
    }
    for each in (app, last):
        client = each.test_client()
        for token in tokens:
            shown = client.get("/api/users/me", headers=bearer(token)).json
            assert (shown["username"], shown["roles"]) == ("alice", ["admin"])


def test_new_rows_get_ids_that_no_row_has_had(app, other):
    source = other("source")
    fill(source)
    with source.app_context():
        ids = [db.session.scalar(sa.select(sa.func.max(DeviceSession.id)))]
        ids.append(db.session.scalar(sa.select(sa.func.max(OutgoingMail.id))))
    move_in(app, source)
    client = app.test_client()
    assert register_user(client, "dave").json["id"] == 4
    made = client.post("/api/posts", json={"body": "x"}, headers=basic("alice"))  # microblog
    assert made.json["id"] == 4  # the third was deleted  # microblog
    client.post("/api/tokens", json={"device": "y"}, headers=basic("alice"))
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.max(DeviceSession.id))) == ids[0] + 1
        assert db.session.scalar(sa.select(sa.func.max(OutgoingMail.id))) > ids[1]
        assert Total.of("user") == 3  # of whom one is deactivated
        assert db.session.scalar(sa.select(ReservedName.username)) == "bob"


def test_tokens_of_another_key_are_counted_and_a_fallback_keeps_them(app, other):
    source = other("source", SECRET_KEY=KEY)
    tokens = fill(source)
    output = move_in(app, source)
    assert "1 are logged in under another SECRET_KEY: name it in SECRET_KEY_FALLBACKS" in output
    client = app.test_client()
    statuses = [client.get("/api/users/me", headers=bearer(t)).status_code for t in tokens]
    assert statuses == [401, 200, 200, 200]
    app.config["SECRET_KEY_FALLBACKS"] = [KEY]
    assert client.get("/api/users/me", headers=bearer(tokens[0])).status_code == 200


def test_a_source_with_another_schema_is_refused(app, other):
    source = other("source")
    with source.app_context():
        flask_migrate.downgrade(revision="0007")
    output = move_in(app, source, fails=True)
    assert re.search(r"the source has the schema 0007, and this code \w+; run `flask db", output)


def test_names_cannot_be_resolved_where_none_clash(app, other, tmp_path):
    args = ("move-in", url_of(other("source")), "--resolve", str(tmp_path / "x.csv"))
    result = app.test_cli_runner().invoke(args=args)
    assert "--resolve is only for the database of a tutorial application" in result.output
    assert result.exit_code == 2


def test_a_second_copy_brings_what_is_new_and_changes_nothing(app, other):
    source = other("source")
    fill(source)
    move_in(app, source)
    assert register_user(source.test_client(), "dave").status_code == 201
    move_in(app, source)
    with app.app_context():
        assert set(db.session.scalars(sa.select(User.username))) >= {"alice", "dave"}
    # This database is used from here on.
    assert register_user(app.test_client(), "erin").status_code == 201
    output = move_in(app, source, fails=True)
    assert "the database is used already (user, outgoing_mail), and a copy would lose" in output
    assert app.test_client().get("/api/users/me", headers=basic("erin")).status_code == 200


def test_a_database_is_not_copied_into_itself(app, other):
    for one in (app, other("one")):
        output = move_in(one, one, fails=True)
        assert output == "Error: SOURCE_URL and DATABASE_URL are the same database\n"


def test_texts_are_ordered_alike_whatever_the_database_does(other, config_class, tmp_path):
    if not conftest.TEST_DATABASE_URL:
        pytest.skip("TEST_DATABASE_URL names no PostgreSQL database")
    source = other("source")
    fill(source)
    with source.app_context():
        for name in ("\u00e9", "f", "a_b", "ab"):  # in English, an accented e is before f
            values = {"username": name, "user_id": 1, "until": utc_now()}
            db.session.execute(sa.insert(ReservedName).values(values))
        db.session.commit()
    with conftest.postgresql_database() as url:
        target = other("target", SQLALCHEMY_DATABASE_URI=url)
        with target.app_context():
            statement = 'ALTER COLUMN username TYPE varchar(64) COLLATE "en-x-icu"'
            db.session.execute(sa.text(f"ALTER TABLE reserved_name {statement}"))
            db.session.commit()
        for _ in range(2):  # the second compares all rows
            move_in(target, source)
        with target.app_context():
            db.session.remove()
            db.engine.dispose()


def test_a_user_who_registers_during_the_copy_is_kept(app, other, monkeypatch):
    source = other("source")
    fill(source)
    copy_all = command_module.copy_all

    def register_first(*args):
        assert register_user(app.test_client(), "erin").status_code == 201
        return copy_all(*args)

    monkeypatch.setattr(command_module, "copy_all", register_first)
    assert "user was changed meanwhile; is the server on?" in move_in(app, source, fails=True)
    assert app.test_client().get("/api/users/me", headers=basic("erin")).status_code == 200
