"""A user name that was given up is reserved for its former owner for 30 days."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import db
from app.models import ReservedName, User
from app.models.errors import AlreadyTakenError
from app.models.reserved_name import MOST_NAMES
from tests.helpers import PASSWORD, at_once, basic, json_of

TAKEN = {"username": ["please use a different username"]}


@pytest.fixture
def rename(client, alice, bob):
    """Return a function that changes a user name; returns the response."""
    ids = {"alice": alice, "bob": bob}

    def rename(who, name):
        body = {"username": name}
        headers = basic(f"{who}@example.com")
        return client.put(f"/api/users/{ids[who]}", json=body, headers=headers)

    return rename


def reserved(app):
    with app.app_context():
        query = sa.select(ReservedName.username).order_by(ReservedName.username)
        return db.session.scalars(query).all()


@pytest.mark.parametrize("name", ["alice", "ALICE"])
def test_nobody_else_can_take_a_name_that_was_given_up(app, client, rename, name):
    assert rename("alice", "liddell").status_code == 200
    refused = rename("bob", name)
    assert (refused.status_code, refused.json["errors"]) == (400, TAKEN)
    refused = client.post("/api/users", json=json_of("carol") | {"username": name})
    assert (refused.status_code, refused.json["errors"]) == (400, TAKEN)
    runner = app.test_cli_runner()
    result = runner.invoke(args=["users", "create", name, "c@example.com"], input=PASSWORD)
    assert (result.exit_code, result.output) == (1, "Error: the username is already taken\n")
    names = [
        one["username"] for one in client.get("/api/users", headers=basic("bob")).json["items"]
    ]
    assert names == ["liddell", "bob"]
    assert client.get("/api/users", headers=basic("bob")).json["_meta"]["total_items"] == 2


def test_the_former_owner_can_take_it_back(app, rename):
    rename("alice", "liddell")
    assert rename("alice", "Alice").status_code == 200
    assert reserved(app) == ["liddell"]
    assert rename("bob", "liddell").status_code == 400
    assert rename("alice", "liddell").status_code == 200
    assert reserved(app) == ["alice"]


@pytest.fixture
def in_another_request(app, alice):
    """Return a function that begins to change Alice's name, and returns the thread."""

    def change(name):
        with app.app_context():
            db.session.get(User, alice).change(username=name)
            db.session.commit()

    def in_another_request(name):
        thread = threading.Thread(target=change, args=(name,))
        thread.start()
        return thread

    return in_another_request


def test_two_changes_at_once_reserve_both_names(app, alice, in_another_request):
    with app.app_context():
        user = db.session.get(User, alice)
        db.session.commit()
        in_another_request("alice2").join(20)
        user.change(username="alice3")
        db.session.commit()
    assert reserved(app) == ["alice", "alice2"]


def test_a_change_that_waits_for_another_one_reserves_its_name(app, alice, in_another_request):
    with app.app_context():
        db.session.get(User, alice).change(username="alice2")
        thread = in_another_request("alice3")
        thread.join(0.5)
        assert thread.is_alive()
        db.session.commit()
    thread.join(20)
    assert reserved(app) == ["alice", "alice2"]


def test_a_change_of_case_reserves_nothing(app, rename):
    rename("alice", "ALICE")
    assert reserved(app) == []


def test_after_30_days_anybody_can_take_it(app, client, rename, register):
    rename("alice", "liddell")
    now = datetime.now(UTC)
    with time_machine.travel(now + timedelta(days=29, hours=23)):
        assert rename("bob", "alice").status_code == 400
    with time_machine.travel(now + timedelta(days=30, seconds=9)):
        assert rename("bob", "alice").status_code == 200
        assert reserved(app) == ["bob"]  # what has expired is gone
        # Its second owner gives it up, too: the former one has no right to it any more.
        assert rename("bob", "robert").status_code == 200
        assert rename("alice", "alice").status_code == 400
        assert rename("bob", "alice").status_code == 200


def test_an_expired_reservation_is_replaced_by_that_of_the_next_owner(app, rename, monkeypatch):
    rename("alice", "liddell")
    monkeypatch.setattr("app.models.reserved_name.PRUNE_BATCH", 0)
    with time_machine.travel(datetime.now(UTC) + timedelta(days=31)):
        assert rename("bob", "alice").status_code == 200
        assert rename("bob", "robert").status_code == 200
        assert rename("alice", "alice").status_code == 400


def test_one_user_reserves_a_limited_number_of_names(app, client, rename):
    for number in range(MOST_NAMES + 3):
        assert rename("alice", f"a{number:02}").status_code == 200
    # The first: a thief cannot free them by further changes.
    assert reserved(app) == [*(f"a{number:02}" for number in range(MOST_NAMES - 1)), "alice"]
    assert rename("bob", "alice").status_code == 400
    assert rename("bob", f"a{MOST_NAMES:02}").status_code == 200


def test_a_refused_change_reserves_nothing(app, rename):
    assert rename("alice", "bob").status_code == 400
    rename("bob", "robert")
    assert rename("alice", "bob").status_code == 400
    assert reserved(app) == ["bob"]


def test_nothing_of_a_user_with_a_reserved_name_is_stored_later(app, rename):
    rename("alice", "liddell")
    with app.app_context():
        with pytest.raises(AlreadyTakenError):
            User.register(username="alice", email="carol@example.com", password=PASSWORD)
        db.session.commit()
        assert set(db.session.scalars(sa.select(User.username))) == {"liddell", "bob"}


@pytest.mark.parametrize("how", ["registers", "renames"])
def test_nobody_gets_the_name_while_it_is_being_given_up(app, client, alice, bob, how):
    """Who tries meanwhile waits for the unique index, and is refused then."""
    results = []

    def take():
        other = app.test_client()
        if how == "registers":
            answer = other.post("/api/users", json=json_of("carol") | {"username": "alice"})
        else:
            headers = basic("bob")
            answer = other.put(f"/api/users/{bob}", json={"username": "alice"}, headers=headers)
        results.append((answer.status_code, answer.json["errors"]))

    thread = threading.Thread(target=take)
    with app.app_context():
        db.session.get(User, alice).change(username="liddell")
        thread.start()
        thread.join(0.5)
        assert results == []
        db.session.commit()
    thread.join(20)
    assert results == [(400, TAKEN)]


def test_users_who_exchange_names_at_once_do_not_deadlock(app, register):
    names = [f"user{number}" for number in range(4)]
    ids = [register(name) for name in names]

    def act(number):
        statuses = set()
        for round_ in range(12):
            body = {"username": f"{names[(number + round_) % 4]}x{round_ % 3}"}
            headers = basic(f"{names[number]}@example.com")
            path = f"/api/users/{ids[number]}"
            statuses.add(app.test_client().put(path, json=body, headers=headers).status_code)
        return statuses

    assert set().union(*at_once(4, act)) <= {200, 400}
