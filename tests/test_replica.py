"""Pages and lists that are read from a standby, which is paused, frozen, killed and promoted."""

import time

import flask_migrate
import pytest
import sqlalchemy as sa
from apiflask import APIBlueprint

from app import create_app, db
from app.auth import any_auth
from app.auth.credential import find_credential
from app.http import replica
from app.http.replica import may_read_replica
from app.models import User
from config import Config
from config_parsers import database_uri, replica_uri
from tests.helpers import PASSWORD, at_once, bearer, register_user
from tests.services import PostgreSQL

pytestmark = pytest.mark.alone  # measures how old an answer is

LISTS = [
    "/api/users",
    "/api/users/1/followers",  # microblog
    "/api/users/1/following",  # microblog
    "/api/users/1/followed",  # microblog
    "/api/posts",  # microblog
    "/api/users/1/posts",  # microblog
    "/api/feed",  # microblog
]


@pytest.fixture(scope="module")
def primary():
    with PostgreSQL() as primary:
        yield primary


@pytest.fixture(scope="module")
def standby(primary):
    with PostgreSQL(primary=primary) as standby:
        yield standby


@pytest.fixture
def app(primary, standby, monkeypatch):
    """An application with this replica, and no users."""
    monkeypatch.setattr(replica, "MEASURED_EVERY_SECONDS", 0.2)
    monkeypatch.setattr(replica, "PAUSE_SECONDS", 1)
    app = app_on(primary, standby)

    @may_read_replica
    def view():
        return app.view()  # that a test may set

    app.route("/view")(any_auth.login_required(role="read")(view))
    with app.app_context():
        flask_migrate.upgrade()
    yield app
    with app.app_context():
        db.session.remove()
        flask_migrate.downgrade(revision="base")
        for engine in db.engines.values():
            engine.dispose()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def token(client, primary, standby):
    register_user(client, "alice")
    token = client.post("/api/tokens", auth=("alice", PASSWORD)).json["token"]
    wait_until(lambda: is_replayed(primary, standby))
    return token


@pytest.fixture
def used(app, client, token, asked):
    """Return a function that waits until the replica is used."""

    def used():
        def is_used():
            asked.clear()
            assert client.get("/api/users", headers=bearer(token)).status_code == 200
            return "replica" in asked

        wait_until(is_used)

    return used


@pytest.fixture
def asked(app):
    """A list of the databases that the session has sent a statement to."""
    asked = []

    def note(name):
        def add(_connection, _cursor, statement, *_):
            if "pg_control_system" not in statement:
                asked.append(name or "primary")

        return add

    with app.app_context():
        for name, engine in db.engines.items():
            sa.event.listen(engine, "before_cursor_execute", note(name))
    return asked


def app_on(primary, standby):
    settings = {
        "SQLALCHEMY_DATABASE_URI": database_uri(primary.url),
        "DATABASE_REPLICA_URL": replica_uri(standby.url),
        "SECRET_KEY": "of tests",
        "ARGON2_MEMORY_KIB": 8,
        "ARGON2_TIME_COST": 1,
    }
    return create_app(type("ReplicaConfig", (Config,), settings))


def is_replayed(primary, standby):
    ((written,),) = primary.execute("SELECT pg_current_wal_lsn()")
    return standby.execute("SELECT pg_last_wal_replay_lsn() >= %s", (written,)) == [(True,)]


def wait_until(is_true, seconds=20):
    give_up = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def names(client, token, **headers):
    response = client.get("/api/users", headers=bearer(token) | headers)
    assert response.status_code == 200, response.text
    return [item["username"] for item in response.json["items"]]


@pytest.mark.slow
def test_a_list_is_read_from_the_replica(client, token, used, asked):
    for path in LISTS:
        used()
        asked.clear()
        assert client.get(path, headers=bearer(token)).status_code == 200
        assert set(asked) == {"replica"}, path


@pytest.mark.slow
def test_all_else_is_read_from_the_primary(client, token, used, asked):
    used()
    asked.clear()
    for path in ("/api/users/me", "/api/users/1", "/api/tokens", "/api/access-tokens"):
        assert client.get(path, headers=bearer(token)).status_code == 200
    assert client.get("/api/users", auth=("alice", "wrong")).status_code == 401
    assert set(asked) == {"primary"}


@pytest.mark.slow
def test_a_paused_replica_opens_no_request_and_is_left_after_five_seconds(
    client, token, standby, used
):
    used()
    standby.execute("SELECT pg_wal_replay_pause()")
    wait_until(lambda: standby.execute("SELECT pg_get_wal_replay_pause_state()") == [("paused",)])
    written = time.monotonic()
    register_user(client, "bob")
    assert names(client, token) == ["alice"]
    assert client.get("/api/users/2", headers=bearer(token)).status_code == 200
    assert names(client, token, **{"Cache-Control": "no-cache"}) == ["alice", "bob"]
    for path in LISTS:
        path_of_bob = path.replace("/1/", "/2/")  # not found on the replica
        assert client.get(path_of_bob, headers=bearer(token)).status_code == 200
    other = client.post("/api/tokens", auth=("bob", PASSWORD)).json["token"]
    assert names(client, other) == ["alice"]
    assert client.delete("/api/tokens", headers=bearer(other)).status_code == 204
    assert client.get("/api/users", headers=bearer(other)).status_code == 401
    wait_until(lambda: names(client, token) == ["alice", "bob"], seconds=6)
    assert 4 < time.monotonic() - written < 6
    standby.execute("SELECT pg_wal_replay_resume()")
    used()


@pytest.mark.slow
def test_while_the_replica_is_frozen_requests_are_answered_by_the_primary(
    app, client, token, standby, used, asked
):
    def timed(_):
        began = time.monotonic()
        assert app.test_client().get("/api/users", headers=bearer(token)).status_code == 200
        return time.monotonic() - began

    used()
    standby.freeze()
    try:
        assert max(at_once(40, timed)) < 3.5
        assert max(map(timed, range(30))) < 0.5
    finally:
        standby.thaw()
    used()


@pytest.mark.slow
def test_while_the_replica_is_down_requests_are_answered_by_the_primary(
    client, token, standby, used
):
    for stop in (standby.kill, standby.stop):
        used()
        stop()
        for _ in range(30):
            assert names(client, token) == ["alice"]
        standby.start()
    used()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flush", "execute"])
def test_a_view_that_reads_the_replica_cannot_write(app, client, token, used, how):
    def write():
        user = any_auth.current_user()
        assert db.session.scalars(sa.select(User)).one() is user
        if how == "flush":
            user.about_me = "changed"
        else:
            db.session.execute(sa.update(User).values(about_me="changed"))
        db.session.commit()
        return {}

    app.view = write
    used()
    assert client.get("/view", headers=bearer(token)).status_code == 500
    assert client.get("/api/users/1", headers=bearer(token)).json["about_me"] is None


@pytest.mark.slow
def test_the_current_user_belongs_to_the_session_also_after_the_replica_has_failed(
    app, client, token, standby, used
):
    calls = []

    def read():
        user = any_auth.current_user()
        calls.append(user)
        assert user in db.session
        if len(calls) == 1:
            standby.kill()
        db.session.refresh(user)
        return {"name": user.username}

    app.view = read
    used()
    assert client.get("/view", headers=bearer(token)).json == {"name": "alice"}
    assert len(calls) == 2
    standby.start()


@pytest.mark.slow
def test_tokens_and_passwords_that_a_view_checks_are_not_read_from_the_replica(
    app, client, token, standby, used
):
    def check():
        users = db.session.scalars(sa.select(User)).all()  # begins a transaction
        password_hash = users[0].password_hash
        return {
            "read": password_hash,
            "tutorial": User.check_token(token) is not None,
            "look-up": find_credential(token) is not None,
            "right": User.find_by_login("alice").check_password(PASSWORD),
        }

    app.view = check
    used()
    standby.execute("SELECT pg_wal_replay_pause()")
    body = {"name": "x", "scope": "read"}
    other = client.post("/api/access-tokens", json=body, headers=bearer(token)).json["token"]
    before = client.get("/view", headers=bearer(other)).json
    assert client.delete("/api/tokens", headers=bearer(token)).status_code == 204
    with app.app_context():
        user = User.find_by_login("alice")
        user.password_hash = "of another one"
        db.session.commit()
    after = client.get("/view", headers=bearer(other)).json
    standby.execute("SELECT pg_wal_replay_resume()")
    assert before == after | {"tutorial": True, "look-up": True, "right": True}
    assert not any((after["tutorial"], after["look-up"], after["right"]))


def test_credentials_cannot_be_read_from_the_replica():
    bp = APIBlueprint("notes", __name__)
    with pytest.raises(TypeError, match="below auth_required"):
        may_read_replica(bp.auth_required(any_auth)(dict))


@pytest.mark.slow
def test_a_standby_of_another_primary_is_not_used(primary, token, caplog):
    with PostgreSQL() as other, PostgreSQL(primary=other) as its_standby:
        for _ in range(3):
            other.execute("SELECT pg_switch_wal()")  # its log is ahead of the primary's
            other.execute("CHECKPOINT")
        wait_until(lambda: is_replayed(other, its_standby))
        app = app_on(primary, its_standby)
        for _ in range(40):
            assert names(app.test_client(), token) == ["alice"]
            time.sleep(0.05)
        assert "the replica is not used: it lags behind, or is no standby" in caplog.text
        assert "the replica is used" not in caplog.text
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


# The last, as there is no standby any more.
@pytest.mark.slow
def test_a_replica_that_has_become_a_primary_is_not_used(client, token, standby, used, asked):
    used()
    standby.promote()
    wait_until(lambda: standby.execute("SELECT pg_is_in_recovery()") == [(False,)])
    standby.execute("DELETE FROM \"user\" WHERE username = 'alice'")
    time.sleep(replica.MOST_LAG_SECONDS)
    asked.clear()
    for _ in range(30):
        assert names(client, token) == ["alice"]
        time.sleep(0.05)
    assert set(asked) == {"primary"}
