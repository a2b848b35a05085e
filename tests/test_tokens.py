"""Logging in, using the token, logging out."""

import base64
import secrets
import string
import subprocess
import time
import zlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
import time_machine

from app import db
from app.models import User
from app.security import tokens
from tests.helpers import PASSWORD, at_once, basic, bearer


def change_alice(app, **columns):
    with app.app_context():
        db.session.execute(sa.update(User).where(User.username == "alice").values(**columns))
        db.session.commit()


# -- Logging in ------------------------------------------------------------------------


def test_a_password_is_exchanged_for_a_token(client, alice):
    response = client.post("/api/tokens", auth=("alice", PASSWORD))
    assert response.status_code == 200
    assert response.json == {
        "token": response.json["token"],
        "access_token": response.json["token"],
        "token_type": "Bearer",
        "expires_in": 3600,
    }
    assert response.headers["Cache-Control"] == "no-store"
    assert tokens.is_valid(response.json["token"], tokens.LOGIN_PREFIX)


@pytest.mark.parametrize("login", ["alice", "ALICE", "alice@example.com", "Alice@Example.COM"])
def test_user_name_and_email_log_in_in_any_case(client, alice, login):
    assert client.post("/api/tokens", auth=(login, PASSWORD)).status_code == 200


@pytest.mark.parametrize(
    "request_options",
    [
        {},
        {"json": {}},
        {"data": "", "content_type": "application/json"},
        {"data": "not json", "content_type": "application/json"},
        {"data": {"username": "x"}},
    ],
    ids=["no body", "{}", "empty JSON", "broken JSON", "form"],
)
def test_the_body_of_a_log_in_is_ignored(client, alice, request_options):
    response = client.post("/api/tokens", auth=("alice", PASSWORD), **request_options)
    assert response.status_code == 200


def test_a_second_log_in_returns_the_same_token(token, log_in):
    assert log_in("alice") == token


def test_a_token_with_less_than_a_minute_left_is_replaced(app, client, token, log_in):
    change_alice(app, token_expiration=datetime.now(UTC) + timedelta(seconds=59))
    new = log_in("alice")
    assert new != token
    assert client.get("/api/users/me", headers=bearer(new)).status_code == 200
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


def test_a_token_with_more_than_a_minute_left_is_kept(app, token, log_in):
    with time_machine.travel(datetime.now(UTC), tick=False):
        change_alice(app, token_expiration=datetime.now(UTC) + timedelta(seconds=60.5))
        assert log_in("alice") == token


@pytest.mark.parametrize("lifetime", [2, 60, 100])
def test_a_short_lived_token_is_handed_out_again_for_half_its_life(app, alice, log_in, lifetime):
    app.config["TOKEN_LIFETIME_SECONDS"] = lifetime
    with time_machine.travel(datetime.now(UTC), tick=False) as clock:
        token = log_in("alice")
        clock.shift(lifetime / 2 - 0.01)
        assert log_in("alice") == token
        clock.shift(0.02)
        assert log_in("alice") != token


def test_a_live_token_of_the_tutorial_is_not_handed_out_again(app, alice, log_in):
    """Backups of its database have the text."""
    text = "0123456789abcdef0123456789abcdef"
    expiration = datetime.now(UTC) + timedelta(hours=1)
    change_alice(app, token=text, token_expiration=expiration, token_created=None)
    assert log_in("alice") != text


def test_a_token_for_longer_than_half_of_the_longest_time_is_handed_out_for_that_half(
    app, alice, log_in
):
    app.config.update(TOKEN_LIFETIME_SECONDS=3 * 24 * 3600, LOGIN_MAX_AGE_DAYS=1)
    with time_machine.travel(datetime.now(UTC), tick=False) as clock:
        token = log_in("alice")
        clock.shift(timedelta(hours=11.9))
        assert log_in("alice") == token
        clock.shift(timedelta(hours=0.2))
        assert log_in("alice") != token


def test_the_lifetime_is_a_setting(app, client, alice):
    app.config["TOKEN_LIFETIME_SECONDS"] = 120
    response = client.post("/api/tokens", auth=("alice", PASSWORD))
    assert response.json["expires_in"] == 120
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=121)):
        headers = bearer(response.json["token"])
        assert client.get("/api/users/me", headers=headers).status_code == 401


def test_who_has_never_logged_in_has_no_token_and_no_seconds_left(app, alice):
    with app.app_context():
        user = db.session.get(User, alice)
        assert (user.token, user.has_live_token, user.token_seconds_left) == (None, False, 0)


def test_logging_in_updates_last_seen(client, alice, log_in):
    with time_machine.travel(datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC), tick=False):
        headers = bearer(log_in("alice"))
        user = client.get("/api/users/me", headers=headers).json
    assert user["last_seen"] == "2031-05-06T07:08:09+00:00"


# -- Using it --------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_bearer_is_case_insensitive(client, token, scheme):
    headers = {"Authorization": f"{scheme} {token}"}
    assert client.get("/api/users/me", headers=headers).status_code == 200


@pytest.mark.parametrize("password", ["", "ignored"])
def test_a_token_may_be_sent_as_the_basic_user_name(client, token, password):
    response = client.get("/api/users/me", headers=basic(token, password))
    assert response.json["username"] == "alice"


def test_a_password_opens_the_data_routes(client, alice):
    assert client.get("/api/users/me", headers=basic("alice")).json["username"] == "alice"


def test_a_token_does_not_log_in(client, token):
    assert client.post("/api/tokens", headers=bearer(token)).status_code == 401
    assert client.post("/api/tokens", headers=basic(token, "")).status_code == 401
    assert client.post("/api/tokens", headers=basic(token, PASSWORD)).status_code == 401


def test_get_tokens_returns_scope_expiry_and_user_of_a_login_token(client, alice, token):
    response = client.get("/api/tokens", headers=bearer(token))
    assert response.status_code == 200
    assert response.json == {
        "token_type": "Bearer",
        "scope": "read write introspect",
        "expires_in": 3600,
        "user": {"id": alice, "username": "alice"},
        "roles": [],
    }
    assert response.headers["X-User-Id"] == str(alice)
    assert response.headers["X-Username"] == "alice"
    assert response.headers["X-Scope"] == "read write introspect"
    assert response.headers["Cache-Control"] == "no-store"


def test_a_name_that_no_header_can_hold_is_quoted_there(app, client, token):
    with app.app_context():
        db.session.execute(sa.update(User).values(username="Jürgen/Doe"))
        db.session.commit()
    answer = client.get("/api/tokens", headers=bearer(token))
    assert answer.headers["X-Username"] == "J%C3%BCrgen%2FDoe"


def test_a_password_has_no_expiry(client, alice, token):
    answer = client.get("/api/tokens", headers=basic("alice")).json
    assert (answer["token_type"], answer["expires_in"]) == ("Basic", None)
    answer = client.get("/api/tokens", headers=basic(token, "")).json
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)


def test_a_bearer_check_is_one_select_and_no_write(client, token, statements):
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200
    assert len(statements) == 1
    assert statements[0].startswith("SELECT")


@pytest.mark.parametrize("position", [0, 3, 4, 20, 33, 34, 39])
def test_a_token_with_one_wrong_character_is_refused_without_a_database_query(
    client, token, statements, position
):
    other = "B" if token[position] == "A" else "A"
    flipped = token[:position] + other + token[position + 1 :]
    for headers in (bearer(flipped), basic(flipped, "x" * (position > 3))):
        assert client.get("/api/users/me", headers=headers).status_code == 401
    assert statements == []


def test_check_token_asks_the_database_for_login_tokens_alone(app, statements):
    with app.app_context():
        for prefix in (tokens.ACCESS_PREFIX, tokens.DEVICE_PREFIX):
            assert User.check_token(tokens.make(prefix)) is None
        assert statements == []
        assert User.check_token(tokens.make()) is None
        assert len(statements) == 1


def test_a_well_formed_but_unknown_token_is_refused(client, alice):
    assert client.get("/api/users/me", headers=bearer(tokens.make())).status_code == 401


# -- Logging out -----------------------------------------------------------------------


@pytest.mark.parametrize("credentials", ["Bearer", "Basic"])
def test_logging_out_ends_the_token(client, token, credentials):
    headers = bearer(token) if credentials == "Bearer" else basic(token, "")
    response = client.delete("/api/tokens", headers=headers)
    assert (response.status_code, response.text) == (204, "")
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert client.delete("/api/tokens", headers=headers).status_code == 401


def test_logging_out_with_a_password_ends_the_token_of_the_user(client, bob, token, log_in, works):
    of_bob = log_in("bob")
    assert client.delete("/api/tokens", headers=basic("alice")).status_code == 204
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    assert client.delete("/api/tokens", headers=basic("alice")).status_code == 204
    assert works(of_bob)


def test_logging_out_leaves_the_tokens_of_other_users_valid(client, token, bob, log_in):
    headers = bearer(log_in("bob"))
    client.delete("/api/tokens", headers=bearer(token))
    assert client.get("/api/users/me", headers=headers).json["username"] == "bob"


def test_logging_in_after_logging_out_gives_another_token(client, token, log_in):
    client.delete("/api/tokens", headers=bearer(token))
    new = log_in("alice")
    assert new != token
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


def test_a_clock_that_steps_back_does_not_revive_a_revoked_token(client, token):
    client.delete("/api/tokens", headers=bearer(token))
    with time_machine.travel(datetime.now(UTC) - timedelta(days=1)):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


# -- The database ----------------------------------------------------------------------


def test_null_columns_cause_no_server_error(app, client, token):
    change_alice(app, token_expiration=None)
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    change_alice(app, password_hash=None, last_seen=None)
    assert client.post("/api/tokens", auth=("alice", PASSWORD)).status_code == 401
    change_alice(app, token_expiration=datetime.now(UTC) + timedelta(hours=1))
    assert client.get("/api/users/me", headers=bearer(token)).json["last_seen"] is None


def test_a_log_in_replaces_a_token_without_an_expiration(app, client, token, log_in):
    change_alice(app, token_expiration=None)
    new = log_in("alice")
    assert new != token
    assert client.get("/api/users/me", headers=bearer(new)).status_code == 200


def test_the_column_holds_the_sealed_token(app, token):
    with app.app_context():
        raw = db.session.scalar(sa.text('SELECT token FROM "user"'))
        assert token.encode() not in bytes(raw)
        assert len(raw) == 56
        assert User.check_token(token).token == token
        assert db.session.scalar(sa.select(User).where(User.token == token)).username == "alice"


def test_the_database_contains_no_token_or_password_in_plain_text(app, token):
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            file = Path(db.engine.url.database)
            # Read by another process: closing the file here would drop the locks on it.
            files = [str(path) for path in file.parent.glob("app.db*")]
            stored = subprocess.run(["cat", *files], capture_output=True, check=True).stdout
        else:
            rows = db.session.execute(sa.text('SELECT "user"::text FROM "user"')).scalars()
            stored = "".join(rows).encode()
    assert b"alice" in stored
    for secret in (token.encode(), token[4:].encode(), PASSWORD.encode()):
        assert secret not in stored
        assert secret.hex().encode() not in stored
        assert base64.b64encode(secret) not in stored


def test_what_is_stored_of_a_text_never_changes(app):
    """Or the tokens of an earlier release would not be found."""
    sealed = "912b60e654814c17fb1fcf7997c07bd71786b03a4f209bcce6e218dee877094c2f19b9"
    digest = "1d3cc375effee50872299cd0d451f302561e664896ad170aab273a1399ad2860"
    with app.app_context():
        assert tokens.seal("the text of a token").hex() == sealed
        assert tokens.unseal(bytes.fromhex(sealed)) == "the text of a token"
    assert tokens.digest("the text of a token").hex() == digest


def test_a_checksum_is_the_crc_32_in_base_62():
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    for _ in range(100):
        text = tokens.make()
        number = 0
        for digit in text[-6:]:
            number = number * 62 + digits.index(digit)
        assert number == zlib.crc32(text[:-6].encode())


@pytest.mark.parametrize(
    "prefix",
    [tokens.LOGIN_PREFIX, tokens.DEVICE_PREFIX, tokens.ACCESS_PREFIX],
    ids=["log in", "device", "access"],
)
def test_tokens_are_drawn_from_62_characters_by_the_operating_system(monkeypatch, prefix):
    texts = [tokens.make(prefix) for _ in range(200)]
    assert len({character for text in texts for character in text[4:34]}) == 62
    drawn = []
    choice = secrets.choice
    monkeypatch.setattr(secrets, "choice", lambda chars: drawn.append(choice(chars)) or drawn[-1])
    assert tokens.make(prefix)[4:34] == "".join(drawn)


def test_the_value_of_the_token_column_is_not_accepted_as_a_token(app, client, token):
    with app.app_context():
        raw = bytes(db.session.scalar(sa.text('SELECT token FROM "user"')))
    for text in (raw.decode("latin-1"), raw.hex(), base64.b64encode(raw).decode()):
        environ = {"HTTP_AUTHORIZATION": f"Bearer {text}"}
        assert client.get("/api/users/me", environ_overrides=environ).status_code == 401


def test_a_token_that_another_release_has_sealed_opens(app, client, alice):
    """Else an upgrade would end all log ins."""
    app.config["SECRET_KEY"] = "a key"
    sealed = bytes.fromhex(
        "50cb55ea42250488e8c54a27bae40fb16efda2d48eaead12"
        "1504a46a6fd370a8225953d78c210153fc99371d1c294a81"
    )
    change_alice(app, token_expiration=datetime.now(UTC) + timedelta(hours=1))
    with app.app_context():
        db.session.execute(sa.text('UPDATE "user" SET token = :token'), {"token": sealed})
        db.session.commit()
    headers = bearer("0123456789abcdef0123456789abcdef")
    assert client.get("/api/users/me", headers=headers).status_code == 200


def test_a_key_may_be_any_bytes(app, client, alice, log_in):
    app.config["SECRET_KEY"] = b"\xff\xfe is no UTF-8".decode(errors="surrogateescape")
    assert client.get("/api/users/me", headers=bearer(log_in("alice"))).status_code == 200


def test_tokens_survive_a_key_rotation(app, client, token, log_in):
    old_key = app.config["SECRET_KEY"]
    app.config.update(SECRET_KEY="another key", SECRET_KEY_FALLBACKS=["an older key", old_key])
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200
    assert log_in("alice") == token
    assert client.delete("/api/tokens", headers=bearer(token)).status_code == 204
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


def test_a_token_check_is_one_select_with_any_number_of_former_keys(app, client, token, statements):
    old_key = app.config["SECRET_KEY"]
    app.config.update(SECRET_KEY="another", SECRET_KEY_FALLBACKS=("older", "oldest", old_key))
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 200
    assert len(statements) == 1
    assert client.get("/api/users/me", headers=bearer(tokens.make())).status_code == 401
    assert len(statements) == 2


@pytest.mark.parametrize("fallbacks", [[], None])
def test_removing_a_secret_key_ends_the_tokens_sealed_under_it(
    app, client, token, log_in, fallbacks
):
    app.config.update(SECRET_KEY="another key", SECRET_KEY_FALLBACKS=fallbacks)
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
    new = log_in("alice")
    assert new != token
    assert client.get("/api/users/me", headers=bearer(new)).status_code == 200
    assert client.delete("/api/tokens", headers=basic("alice")).status_code == 204
    assert client.get("/api/users/me", headers=bearer(new)).status_code == 401


# -- Code written for the tutorial -----------------------------------------------------


def test_the_methods_of_the_tutorial_work(app):
    with app.app_context():
        user = User(username="susan", email="susan@example.com")
        user.set_password("cat")
        assert user.check_password("cat")
        assert not user.check_password("dog")
        db.session.add(user)
        db.session.commit()
        token = user.get_token()
        now = datetime.now(UTC)
        assert now - timedelta(seconds=9) < user.last_seen == user.logged_in_at <= now
        left = user.token_expiration - now
        assert timedelta(seconds=3590) < left < timedelta(seconds=3600.5)
        db.session.commit()
        assert user.get_token(expires_in=3600) == token
        assert User.check_token(token) == user
        user.revoke_token()
        assert user.token_expiration < datetime.now(UTC)
        db.session.commit()
        assert User.check_token(token) is None
        assert user.token is None
        assert repr(user) == "<User susan>"


def test_check_token_finds_the_owner_among_others(app, bob, alice, log_in):
    with app.app_context():
        for name, id in (("alice", alice), ("bob", bob)):
            assert User.check_token(log_in(name)).id == id


def test_a_token_that_was_got_and_revoked_before_a_commit_opens_nothing(app, client):
    with app.app_context():
        user = User(username="susan", email="susan@example.com")
        token = user.get_token()
        user.revoke_token()
        db.session.commit()
        assert User.check_token(token) is None
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 401


def test_a_revoked_token_stays_ended_when_the_clock_is_set_back(app, client, token):
    assert client.delete("/api/tokens", headers=bearer(token)).status_code == 204
    with time_machine.travel(datetime.now(UTC) - timedelta(days=1)):
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 401
        listed = client.get("/api/sessions", headers=basic("alice")).json["items"]
    assert listed == []


def test_get_token_without_a_commit_keeps_nobody_waiting(app, client, alice, bob):
    with app.app_context():
        user = db.session.get(User, alice)
        assert user.get_token() == user.get_token()
        names = ["alice", "bob"]  # in threads, which have sessions of their own
        answers = at_once(
            2, lambda number: client.post("/api/tokens", headers=basic(names[number]))
        )
    assert [answer.status_code for answer in answers] == [200, 200]


def test_get_token_does_not_return_a_token_that_was_revoked_elsewhere(app, client, alice, token):
    with app.app_context():
        user = db.session.get(User, alice)
        assert user.get_token() == token
        db.session.commit()
        at_once(1, lambda _: client.delete("/api/tokens", headers=bearer(token)))
        assert user.get_token() != token


@pytest.fixture
def elsewhere(monkeypatch):
    """The machine is in another time zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST+5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
def test_an_assigned_time_is_in_utc_also_without_a_zone(app, client, alice):
    with app.app_context():
        user = db.session.get(User, alice)
        token = user.get_token()
        user.last_seen = datetime(2030, 1, 1)  # noqa: DTZ001  the point
        assert user.last_seen == datetime(2030, 1, 1, tzinfo=UTC)
        user.last_seen = datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
        assert user.last_seen == datetime(2030, 1, 1, tzinfo=UTC)
        assert user.last_seen.tzinfo is UTC
        user.token_expiration = datetime(2020, 1, 1)  # noqa: DTZ001  likewise
        assert User.check_token(token) is None
        db.session.commit()
        values = {"last_seen": datetime(2031, 1, 1)}  # noqa: DTZ001  likewise
        db.session.execute(sa.update(User).where(User.id == alice).values(values))
        db.session.commit()
    seen = client.get(f"/api/users/{alice}", headers=basic("alice")).json["last_seen"]
    assert seen == "2031-01-01T00:00:00+00:00"


def test_get_token_works_for_a_user_that_is_not_stored_yet(app):
    with app.app_context():
        user = User(username="susan", email="susan@example.com")
        token = user.get_token(expires_in=100)
        db.session.commit()
        assert User.check_token(token) == user
