"""The SELECT of a token without a session, and safe methods without a transaction."""

import datetime as dt
import decimal
import enum
import sqlite3
import uuid
from contextlib import ExitStack
from typing import ClassVar

import pytest
import sqlalchemy as sa
import sqlalchemy.orm as so

from app import create_app, db
from app.auth import any_auth, current_credential
from app.auth.credential import find_credential
from app.extensions import engine_options
from app.models import User, lookup
from app.models.lookup import Lookup, put_into_session
from app.models.total import Total
from config import database_uri
from tests.helpers import bearer


@pytest.fixture
def view(config_class, token):
    """Return a function that adds a view to an application, and returns its client."""
    app = create_app(config_class)

    def view(function, methods=("GET",)):
        app.route("/view", methods=methods)(any_auth.login_required(function))
        return app.test_client()

    yield view
    with app.app_context():
        db.engine.dispose()


def about(app, name="alice"):
    with app.app_context():
        return db.session.scalar(sa.select(User.about_me).where(User.username == name))


def transaction():
    """Return the state of the session's connection to PostgreSQL, in the words of libpq."""
    return db.session.connection().connection.driver_connection.info.transaction_status.name


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_current_user_is_one_object_that_can_be_changed_and_committed(app, view, token, method):
    def change():
        user = any_auth.current_user()
        assert user is any_auth.current_user()
        assert user is db.session.get(User, user.id)
        user.about_me = "changed"
        db.session.commit()
        user.about_me += " twice"
        db.session.commit()
        return {"about_me": any_auth.current_user().about_me, "token": user.token}

    response = view(change, ["GET", "POST"]).open("/view", method=method, headers=bearer(token))
    assert response.json == {"about_me": "changed twice", "token": token}
    assert about(app) == "changed twice"


def test_the_current_user_is_not_read_again_from_what_is_outdated(view, token):
    def change():
        any_auth.current_user().about_me = "changed"
        db.session.commit()  # now the session no longer holds the object
        return {"about_me": any_auth.current_user().about_me}

    response = view(change).get("/view", headers=bearer(token))
    assert response.json == {"about_me": "changed"}


def test_a_safe_method_reads_without_a_transaction(view, token):
    def read():
        if db.engine.dialect.name == "sqlite":
            pytest.skip("SQLite's driver decides")
        db.session.scalars(sa.select(User)).all()
        return {"transaction": transaction()}

    response = view(read).get("/view", headers=bearer(token))
    assert response.json == {"transaction": "IDLE"}


def test_sqlite_is_not_asked_again_after_an_error(app, client, token, monkeypatch):
    if app.config["SQLALCHEMY_DATABASE_URI"].startswith("postgresql"):
        pytest.skip("there a connection can be lost")
    execute, failures = lookup._execute, [sqlite3.OperationalError("locked")]  # noqa: SLF001  where the driver fails
    failures[0].sqlite_errorcode = sqlite3.SQLITE_BUSY

    def fail_once(*arguments):
        if failures:
            raise failures.pop()
        return execute(*arguments)

    monkeypatch.setattr(lookup, "_execute", fail_once)
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 503


def test_the_current_user_is_whole(view, token):
    def compare():
        user = any_auth.current_user()
        names = sa.inspect(User).column_attrs.keys()
        assert sa.inspect(user).unloaded == set()
        db.session.expunge_all()
        stored = db.session.get(User, user.id)
        assert [getattr(user, name) for name in names] == [getattr(stored, name) for name in names]
        return {}

    assert view(compare).get("/view", headers=bearer(token)).status_code == 200


class Base(so.DeclarativeBase):
    pass


class Color(enum.Enum):
    RED = "red"


class Sample(Base):
    """A column of each kind that a developer may add to `User`."""

    __tablename__ = "lookup_sample"

    id: so.Mapped[int] = so.mapped_column(primary_key=True)
    color: so.Mapped[Color]
    flag: so.Mapped[bool]
    day: so.Mapped[dt.date]
    price: so.Mapped[decimal.Decimal] = so.mapped_column(sa.Numeric(10, 2))
    settings: so.Mapped[dict[str, int]] = so.mapped_column(sa.JSON)
    key: so.Mapped[uuid.UUID]
    pause: so.Mapped[dt.timedelta]
    renamed: so.Mapped[str] = so.mapped_column("other name")
    missing: so.Mapped[float | None]


def test_a_look_up_reads_every_type_as_the_session_does(app):
    row = {
        "id": 1,
        "color": Color.RED,
        "flag": True,
        "day": dt.date(2026, 11, 21),
        "price": decimal.Decimal("1.50"),
        "settings": {"a": 1},
        "key": uuid.UUID(int=7),
        "pause": dt.timedelta(minutes=3),
        "renamed": "text",
        "missing": None,
    }
    with app.app_context():
        Base.metadata.create_all(db.engine)
        db.session.add(Sample(**row))
        db.session.commit()
        find = Lookup(sa.select(Sample).where(Sample.id == sa.bindparam("wanted")))
        assert find.find(wanted=1) == [row]
        assert find.find(wanted=2) is None
        db.session.remove()
        Base.metadata.drop_all(db.engine)


def test_a_user_that_the_session_has_already_is_not_replaced(view, token):
    def twice():
        stored = db.session.get(User, current_credential().user_id)
        stored.about_me = "not committed"
        assert any_auth.current_user() is stored
        return {"about_me": any_auth.current_user().about_me}

    response = view(twice).get("/view", headers=bearer(token))
    assert response.json == {"about_me": "not committed"}


def test_a_look_up_asks_each_database_in_its_own_sql(app, client_of, tmp_path):
    if app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"):
        pytest.skip("the other one is SQLite")
    lookup = Lookup(sa.select(Total).where(Total.name == sa.bindparam("wanted")))
    other = client_of(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/other.db").application
    with other.app_context():
        db.create_all()
        db.session.add(Total(name="other", value=7))
        db.session.commit()
    for one, name in ((app, "user"), (other, "other"), (app, "user")):
        with one.app_context():
            (found,) = lookup.find(wanted=name)
            assert found["name"] == name


def test_an_object_of_a_subclass_is_one_of_that_class(app):
    class Base(so.DeclarativeBase):
        pass

    class Animal(Base):
        __tablename__ = "animal"
        __mapper_args__: ClassVar = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        id: so.Mapped[int] = so.mapped_column(primary_key=True)
        kind: so.Mapped[str]

    class Dog(Animal):
        __mapper_args__: ClassVar = {"polymorphic_identity": "dog"}

    with app.app_context():
        Base.metadata.create_all(db.engine)
        try:
            db.session.add(Dog(id=7))
            db.session.commit()
            db.session.expunge_all()
            assert type(put_into_session(Animal, {"id": 7, "kind": "dog"})) is Dog
        finally:
            db.session.rollback()
            Base.metadata.drop_all(db.engine)


def test_writes_of_a_safe_method_are_one_transaction(app, view, token):
    def fail_between():
        db.session.scalars(sa.select(User)).all()
        db.session.execute(sa.update(User).values(about_me="first"))
        db.session.execute(sa.update(User).values(about_me="second"))
        db.session.rollback()
        return {}

    assert view(fail_between).get("/view", headers=bearer(token)).status_code == 200
    assert about(app) is None


@pytest.mark.parametrize(
    "statement",
    [
        sa.select(User).with_for_update(),
        sa.text('SELECT id FROM "user" for update'),
        sa.select(sa.func.pg_advisory_xact_lock(7)),
        sa.select(sa.func.pg_advisory_xact_lock(User.id)),
        sa.select(User).execution_options(yield_per=1),
    ],
    ids=["row lock", "row lock in SQL", "lock", "lock of rows", "server-side cursor"],
)
def test_a_safe_method_has_a_transaction_where_it_needs_one(view, token, statement):
    def read():
        if db.engine.dialect.name == "sqlite":
            pytest.skip("SQLite has no such statements")
        db.session.execute(statement).fetchall()
        return {"transaction": transaction()}

    response = view(read).get("/view", headers=bearer(token))
    assert response.json == {"transaction": "INTRANS"}


def test_a_safe_method_keeps_the_isolation_level_that_a_view_chooses(app, view, token):
    count = sa.select(sa.func.count()).select_from(User).where(User.about_me == "new")

    def read_twice():
        if db.engine.dialect.name == "sqlite":
            pytest.skip("SQLite has one isolation level")
        options = {"isolation_level": "REPEATABLE READ"}
        with db.engine.connect().execution_options(**options) as connection:
            before = connection.scalar(count)
            with app.app_context():
                db.session.execute(sa.update(User).values(about_me="new"))
                db.session.commit()
            return {"counts": [before, connection.scalar(count)]}

    assert view(read_twice).get("/view", headers=bearer(token)).json == {"counts": [0, 0]}


def test_a_write_past_the_session_can_be_rolled_back(app, view, token):
    def write():
        for _ in range(3):  # connections of former look-ups and reads
            driver = db.session.connection().connection
            driver.cursor().execute("UPDATE \"user\" SET about_me = 'raw'")
            db.session.rollback()
        return {}

    client = view(write, ["POST"])
    for _ in range(3):
        assert client.get("/api/users", headers=bearer(token)).status_code == 200
        assert client.post("/view", headers=bearer(token)).status_code == 200
    assert about(app) is None


def test_an_update_of_many_rows_changes_the_current_user_too(app, view, token):
    def write():
        id = current_credential().user_id
        update = sa.update(User).where(User.id == id)
        db.session.execute(update.values(about_me="one"))
        db.session.execute(update.values(about_me=User.about_me + " two"))
        any_auth.current_user().about_me += " three"
        db.session.commit()
        return {}

    assert view(write, ["POST"]).post("/view", headers=bearer(token)).status_code == 200
    assert about(app) == "one two three"


def test_a_request_needs_one_connection(config_class, token):
    options = engine_options(sa.make_url(config_class.SQLALCHEMY_DATABASE_URI), threads=1)
    options |= {"pool_timeout": 0.1}
    app = create_app(type("OneConfig", (config_class,), {"SQLALCHEMY_ENGINE_OPTIONS": options}))

    @app.before_request
    def read_first():
        db.session.scalars(sa.select(User)).all()

    for method in ("GET", "PUT"):
        response = app.test_client().open("/api/tokens", method=method, headers=bearer(token))
        assert response.status_code == 200
    with app.app_context():
        db.engine.dispose()


def test_a_changed_column_fails_no_request(client, token, config_class):
    if config_class.SQLALCHEMY_DATABASE_URI.startswith("sqlite"):
        pytest.skip("SQLite prepares a statement anew by itself")

    def is_fine():
        paths = ("/api/tokens", "/api/users", "/api/users/me")
        return all(client.get(path, headers=bearer(token)).status_code == 200 for path in paths)

    with ExitStack() as stack:  # several connections of the pool prepare the statements
        for _ in range(3):
            assert is_fine()
            with client.application.app_context():
                stack.enter_context(db.engine.connect())
    # By another process: a ROLLBACK would make this connection forget what it has prepared.
    other = sa.create_engine(database_uri(config_class.SQLALCHEMY_DATABASE_URI))
    try:
        for length in (200, 140):
            with other.begin() as connection:
                change = f'ALTER TABLE "user" ALTER about_me TYPE varchar({length})'
                connection.execute(sa.text(change))
            assert all(is_fine() for _ in range(8))
    finally:
        other.dispose()


def test_a_look_up_that_the_database_rejects_is_500_and_not_503(app, client, token, monkeypatch):
    app.config["PROPAGATE_EXCEPTIONS"] = False
    wrong = Lookup(sa.select(User).where(sa.text("no_such_column = 1")))
    monkeypatch.setattr("app.models.lookup._by_sealed_forms", lambda _: (wrong, ["sealed_0"]))
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 500
    monkeypatch.undo()
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200


def test_a_look_up_may_contain_values(app, alice):
    names = User.username.in_(["alice", "bob"]), User.email != "x"
    found = Lookup(sa.select(User).where(User.id == sa.bindparam("id"), *names))
    with app.app_context():
        assert found.find(id=alice)[0]["username"] == "alice"


def test_listeners_of_the_load_event_are_called_for_the_current_user(view, token):
    seen = []

    def listen(user, _context):
        seen.append(user)

    def read():
        sa.event.listen(User, "load", listen)
        user = any_auth.current_user()
        sa.event.remove(User, "load", listen)
        assert seen == [user]
        return {}

    assert view(read).get("/view", headers=bearer(token)).status_code == 200


def test_only_the_token_that_was_presented_is_revoked(app, token):
    with app.app_context():
        credential = find_credential(token)
        user = db.session.get(User, credential.user_id)
        user.revoke_token()
        newer = user.get_token()
        db.session.commit()
        credential.revoke()
        db.session.commit()
        assert User.check_token(newer) is not None


def test_a_read_of_other_methods_is_in_their_transaction(view, token):
    def read():
        if db.engine.dialect.name == "sqlite":
            pytest.skip("SQLite begins a transaction with the first write")
        db.session.scalars(sa.select(User)).all()
        return {"transaction": transaction()}

    client = view(read, ["POST"])
    assert client.get("/view").status_code == 405
    assert client.post("/view", headers=bearer(token)).json == {"transaction": "INTRANS"}


def test_a_connection_that_is_ended_while_it_is_used_is_replaced(relay, relayed_client, token):
    app = relayed_client.application
    client = app.test_client()
    assert client.get("/api/tokens", headers=bearer(token)).status_code == 200
    ended = []

    def end_once(*_):
        if not ended:
            ended.append(True)
            relay.cut()
            relay.mode = "open"

    with app.app_context():
        # After the pool has looked at the connection.
        sa.event.listen(db.engine, "checkout", end_once)
    assert client.get("/api/tokens", headers=bearer(token)).status_code == 200
    assert ended


def test_a_connection_that_is_ended_again_and_again_is_503(relay, relayed_client, token):
    app = relayed_client.application
    client = app.test_client()

    def end(*_):
        relay.cut()
        relay.mode = "open"

    with app.app_context():
        sa.event.listen(db.engine, "checkout", end)
        assert client.get("/api/tokens", headers=bearer(token)).status_code == 503
        sa.event.remove(db.engine, "checkout", end)
    assert client.get("/api/tokens", headers=bearer(token)).status_code == 200
