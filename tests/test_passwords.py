"""Hashes: ours, those of an existing tutorial database, and those made with other parameters."""

import pytest
import sqlalchemy as sa
from werkzeug.security import generate_password_hash

from app import db, passwords
from app.models import User
from config import Config
from tests.helpers import PASSWORD, basic


@pytest.fixture
def stored_hash(app, alice):
    """Reads Alice's hash, after replacing it when one is given."""

    def stored_hash(new=None):
        with app.app_context():
            user = db.session.get(User, alice)
            if new is not None:
                user.password_hash = new
                db.session.commit()
            return user.password_hash

    return stored_hash


def test_passwords_are_hashed_with_argon2id(stored_hash):
    assert stored_hash().startswith("$argon2id$v=19$m=8,t=1,p=1$")


def test_the_default_parameters_are_those_of_owasp():
    assert (Config.ARGON2_MEMORY_KIB, Config.ARGON2_TIME_COST) == (19456, 2)


@pytest.mark.parametrize("method", ["scrypt", "scrypt:1024:8:1", "pbkdf2", "pbkdf2:sha256:1000"])
def test_a_hash_of_the_tutorial_verifies_and_is_replaced_at_log_in(client, stored_hash, method):
    old = stored_hash(generate_password_hash(PASSWORD, method))
    assert client.post("/api/tokens", auth=("alice", "wrong")).status_code == 401
    assert stored_hash() == old
    assert client.post("/api/tokens", auth=("alice", PASSWORD)).status_code == 200
    assert stored_hash().startswith("$argon2id$")
    assert client.post("/api/tokens", auth=("alice", PASSWORD)).status_code == 200


def test_a_hash_with_other_parameters_is_replaced_at_log_in(app, client, stored_hash):
    app.config.update(ARGON2_TIME_COST=2, ARGON2_MEMORY_KIB=16)
    assert client.post("/api/tokens", auth=("alice", PASSWORD)).status_code == 200
    assert "m=16,t=2,p=1" in stored_hash()
    same = stored_hash()
    assert client.post("/api/tokens", auth=("alice", PASSWORD)).status_code == 200
    assert stored_hash() == same


def test_a_hash_is_not_replaced_where_nothing_is_written(client, stored_hash):
    old = stored_hash(generate_password_hash(PASSWORD, "scrypt:1024:8:1"))
    assert client.get("/api/users/me", headers=basic("alice")).status_code == 200
    assert stored_hash() == old


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "x",
        "$argon2id$",
        "$argon2id$v=19$m=8,t=1,p=1$x$y",
        "scrypt:0:0:0$a$b",
        "md5$a$b",
        "a$b$c",
    ],
)
def test_a_hash_that_cannot_be_read_matches_nothing(client, stored_hash, broken):
    stored_hash(broken)
    assert client.post("/api/tokens", auth=("alice", PASSWORD)).status_code == 401


def test_a_user_whose_hash_is_null_can_be_given_a_password(app, alice):
    with app.app_context():
        db.session.execute(sa.update(User).values(password_hash=None))
        user = db.session.get(User, alice)
        assert not user.check_password("")
        user.renew_password_hash("a new one")
        assert user.check_password("a new one")


def test_an_unreadable_argon2_hash_needs_rehash(app):
    with app.app_context():
        assert passwords.needs_rehash("$argon2id$broken")
