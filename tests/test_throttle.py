"""Rate limits for wrong passwords, which must not lock out the owner or other users."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta

import argon2
import pytest
import sqlalchemy as sa
import time_machine
from limits.storage import RedisStorage

from app import create_app, db
from app.auth import public
from app.models import KnownSource
from app.security import rate_limits
from app.security.rate_limits import Limit, LimitReachedError, charge_all
from config import Config
from tests.helpers import PASSWORD, Server, at_once, basic, bearer, until

pytestmark = pytest.mark.alone  # limits end while it waits

LIMITS = ("LOGIN_LIMIT_PER_SOURCE", "LOGIN_LIMIT_PER_ACCOUNT")
HOME = "198.51.100.7"
MESSAGE = "too many wrong passwords; try again when the Retry-After header says"


@pytest.fixture
def guess(client):
    """Return a function that logs in from an address and returns the response."""

    def guess(login, source=HOME, password="not the password"):
        environ = {"REMOTE_ADDR": source}
        return client.post("/api/tokens", headers=basic(login, password), environ_base=environ)

    return guess


@pytest.fixture
def hashes(monkeypatch):
    """A list to which each password is added when it is checked."""
    checked = []
    verify = argon2.PasswordHasher.verify

    def count(hasher, password_hash, password):
        checked.append(password)
        return verify(hasher, password_hash, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", count)
    return checked


def stranger(number):
    return f"203.0.113.{number}"


def statuses(answers):
    return Counter(answer.status_code for answer in answers)


# -- What is charged -------------------------------------------------------------------


@pytest.mark.parametrize("login", ["alice", "nobody", "nobody@example.com"])
def test_the_21st_guess_from_one_source_is_refused_without_hashing(guess, alice, hashes, login):
    for _ in range(20):
        assert guess(login).status_code == 401
    answer = guess(login)
    assert answer.status_code == 429
    assert answer.json == {"error": "Too Many Requests", "message": MESSAGE}
    assert 1 <= int(answer.headers["Retry-After"]) <= 300
    assert guess(login, password=PASSWORD).status_code == 429
    assert guess("somebody.else").status_code == 429
    assert len(hashes) == 20
    assert guess(login, stranger(1)).status_code == 401


@pytest.mark.parametrize("login", ["alice", "nobody", "nobody@example.com"])
def test_the_101st_guess_at_one_account_within_an_hour_is_refused(guess, alice, hashes, login):
    answers = [guess(login, stranger(number % 40)) for number in range(140)]
    assert [answer.status_code for answer in answers] == [401] * 100 + [429] * 40
    assert len(hashes) == 100
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 3600
    assert guess("bob", stranger(0)).status_code == 401


def test_all_log_in_names_of_an_account_share_one_budget(guess, alice):
    names = ["alice", "ALICE", "alice@example.com", "Alice@EXAMPLE.com"]
    for number in range(100):
        assert guess(names[number % 4], stranger(number % 40)).status_code == 401
    assert {guess(name, stranger(50)).status_code for name in names} == {429}


def test_all_spellings_of_an_unknown_name_share_one_budget(guess):
    for names in (["nobody", "NOBODY"], ["a@bücher.example", "A@XN--BCHER-KVA.example"]):
        for number in range(100):
            assert guess(names[number % 2], stranger(number % 40)).status_code == 401
        assert {guess(name, stranger(50)).status_code for name in names} == {429}


def test_a_guess_beyond_the_limit_does_not_wait_for_others(app, guess, alice, events):
    for _ in range(20):
        guess("alice")
    can_end = threading.Event()
    for _ in range(app.config["PASSWORD_HASH_CONCURRENCY"]):  # all threads are busy
        app.extensions["passwords"]._threads.submit(can_end.wait)  # noqa: SLF001  requests would keep them busy for a moment only
    try:
        assert guess("alice").status_code == 429
    finally:
        can_end.set()
    assert events()[-1]["event"] == "log_in_throttled"


def test_unknown_names_that_differ_in_small_letters_alone_have_a_budget_each(client_of):
    client = client_of(LOGIN_LIMIT_PER_ACCOUNT="1 per hour")
    # Both are STRASSE in capitals.
    for name in ("stra\N{LATIN SMALL LETTER SHARP S}e", "strasse"):
        assert client.post("/api/tokens", headers=basic(name)).status_code == 401


def test_a_charge_is_refunded_once(app):
    with app.app_context():
        limit, of_other_request = (Limit("notes", "5 per minute", 1) for _ in range(2))
        for one in (limit, of_other_request):
            one.charge()
        limit.refund()
        limit.refund()
        assert limit.window().remaining == 4


@pytest.fixture
def clock(monkeypatch):
    """The clocks of this process, which stand still until they are shifted."""
    monkeypatch.setattr(rate_limits, "monotonic_now", time.time)
    with time_machine.travel(datetime.now(UTC), tick=False) as clock:
        yield clock


def test_a_budget_is_restored_after_its_window(guess, alice, clock):
    for _ in range(20):
        guess("alice")
    refused = guess("alice")
    assert refused.headers["Retry-After"] == "300"
    clock.shift(299)
    assert guess("alice").headers["Retry-After"] == "1"
    clock.shift(0.9)
    assert guess("alice").headers["Retry-After"] == "1"
    clock.shift(0.2)
    assert guess("alice").status_code == 401


def test_a_clock_that_is_set_does_not_restore_a_budget(guess, alice):
    for _ in range(21):
        guess("alice")
    with time_machine.travel(datetime.now(UTC) + timedelta(days=1)):
        assert guess("alice").status_code == 429


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("2a02:1:2:3::1", "2a02:1:2:3::2", True),  # public
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1:443", "192.0.2.1:50000", True),
        ("[2001:db8:1:2::1]:443", "2001:db8:1:2::9", True),
        ("", "no address", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_a_source_is_an_ipv4_address_or_a_network_of_64_bits(guess, first, second, same):
    for _ in range(20):
        guess("nobody", first)
    assert guess("nobody", second).status_code == (429 if same else 401)


def test_a_charge_that_is_refused_charges_no_other_limit(app):
    with app.app_context():
        first, second = Limit("first", "1 per hour", 1), Limit("second", "1 per hour", 1)
        first.charge()
        for limits in ([second, first], [first, second]):
            with pytest.raises(LimitReachedError):
                charge_all(limits)
        second.charge()


def test_a_charge_that_is_refused_does_not_use_up_what_is_refunded(app):
    with app.app_context():
        first, second, third = (Limit("one", "1 per hour", 1) for _ in range(3))
        first.charge()
        with pytest.raises(LimitReachedError):
            second.charge()
        first.refund()
        third.charge()


def test_limits_count_each_key_separately(app):
    with app.app_context():
        for name, key in (("a", 1), ("b", 1), ("a", 2), ("a", "1"), ("a", "1 2"), ("a", "12")):
            Limit(name, "1 per hour", key).charge()
        Limit("a", "1 per hour", 1, 2).charge()
        limit = Limit("a", "1 per hour", 1)
        with pytest.raises(LimitReachedError) as reached:
            limit.test()
        assert 3500 < limit.seconds_to_wait() <= 3600
        error = reached.value
        assert (error.limit, error.counts) == ("a", "requests")
        assert str(error) == f"too many requests; wait {error.retry_after_seconds} s"
        assert Limit("a", "1 per hour", 3).seconds_to_wait() == 0


def test_where_nothing_was_charged_the_whole_window_is_left(app):
    with app.app_context():
        assert Limit("new", "3 per 5 minutes", 1).window() == (3, 300, 3, 300)


def test_where_all_was_refunded_the_whole_window_is_left(app, clock):
    with app.app_context():
        limit = Limit("new", "3 per 5 minutes", 1)
        limit.charge()
        clock.shift(100)
        assert limit.window() == (3, 300, 2, 200)
        limit.refund()
        assert limit.window() == (3, 300, 3, 300)


def test_a_refund_does_not_enlarge_the_next_window(app, clock):
    with app.app_context():
        limits = [Limit("slow", "2 per minute", 1) for _ in range(4)]
        limits[0].charge()
        clock.shift(61)
        limits[0].refund()
        limits[1].charge()
        limits[2].charge()
        with pytest.raises(LimitReachedError):
            limits[3].charge()


def test_the_limits_are_by_default_those_that_are_promised():
    """As SECURITY.md has them; the other tests use limits of their own."""
    defaults = {name: getattr(Config, name) for name in vars(Config) if "_LIMIT_" in name}
    assert defaults == {
        "LOGIN_LIMIT_PER_SOURCE": "20 per 5 minutes",
        "LOGIN_LIMIT_PER_ACCOUNT": "100 per hour",
        "LOGIN_LIMIT_PER_ADDRESS": "100 per 5 minutes",
        "REGISTRATION_LIMIT_PER_SOURCE": "500 per hour",
        "MAIL_LIMIT_PER_SOURCE": "20 per hour",
        "MAIL_LIMIT_PER_RECIPIENT": "5 per hour",
    }


def test_wrong_passwords_from_one_address_are_limited_over_all_accounts(
    app, guess, register, hashes
):
    """As in an office or a VPN: many log in there, and one of them attacks the others."""
    app.config["LOGIN_LIMIT_PER_ADDRESS"] = "50 per 5 minutes"
    names = [f"user{number}" for number in range(10)]
    for name in names:
        register(name)
        guess(name, password=PASSWORD)
    hashes.clear()
    answers = [guess(names[number % 10]) for number in range(100)]
    assert statuses(answers) == {401: 20, 429: 80}
    assert len(hashes) == 50
    assert guess("nobody").status_code == 429
    assert guess(names[0], stranger(1)).status_code == 401


def test_an_answer_does_not_reveal_who_has_logged_in_from_the_address(guess, alice, bob):
    guess("alice", password=PASSWORD)
    for number in range(20):
        guess(f"nobody{number}")
    for name in ("alice", "bob", "nobody"):
        answer = guess(name)
        assert (answer.status_code, answer.json["message"]) == (429, MESSAGE)
    assert guess("alice", password=PASSWORD).status_code == 200


@pytest.mark.parametrize("is_known", [True, False])
def test_20_wrong_passwords_for_a_user_do_not_reveal_it_either(guess, alice, is_known):
    if is_known:
        guess("alice", password=PASSWORD)
    assert statuses(guess("alice") for _ in range(25)) == {401: 20, 429: 5}
    assert guess("nobody").status_code == 429


def test_a_custom_rate_limit_is_answered_with_429(app, client_of):
    client = client_of()
    view = public(lambda: Limit("notes", "1 per hour", "key", counts="notes").charge() or "")
    client.application.get("/notes-of-ones-own")(view)
    assert client.get("/notes-of-ones-own").status_code == 200
    response = client.get("/notes-of-ones-own")
    assert response.status_code == 429
    assert response.json["message"].startswith("too many notes; ")
    assert 1 <= int(response.headers["Retry-After"]) <= 3600


def test_expired_counters_do_not_accumulate_in_memory(app, clock):
    storage = rate_limits.ProcessStorage()
    for round_ in range(20):
        for number in range(500):
            assert storage.incr(f"{round_} {number}", 60) == 1
        clock.shift(61)
    assert len(storage._windows) <= 1024  # noqa: SLF001  memory shows nowhere else
    assert storage.incr("x", 60) == storage.get("x") == 1
    storage.clear("x")
    assert storage.get("x") == 0
    storage.incr("y", 60)
    storage.reset()
    assert storage.get("y") == 0


def test_a_flood_of_keys_that_live_is_not_walked_over_with_each_new_one(app, monkeypatch):
    storage = rate_limits.ProcessStorage()
    walks = []
    sweep = storage._sweep  # noqa: SLF001  its cost shows nowhere else

    def count(now):
        before = storage._windows  # noqa: SLF001  likewise
        sweep(now)
        walks.append(storage._windows is not before)  # noqa: SLF001  likewise

    monkeypatch.setattr(storage, "_sweep", count)
    for number in range(10_000):
        storage.incr(str(number), 3600)
    assert (len(walks), sum(walks)) == (10_000, 4)  # at 1024, 2048, 4096 and 8192


def test_a_flood_of_keys_does_not_end_the_windows_of_others(app):
    storage = rate_limits.ProcessStorage()
    storage.incr("of the account that is attacked", 3600, amount=100)
    for number in range(50_000):
        storage.incr(str(number), 3600)
    assert storage.get("of the account that is attacked") == 100


def test_the_keys_of_counters_do_not_say_who_is_counted(app, guess):
    guess("typed into the wrong field", "198.51.100.9")
    keys = str(app.extensions["rate_limits"]._own.storage._windows)  # noqa: SLF001  as above
    assert "log in per source" in keys
    assert "typed" not in keys
    assert "198.51.100" not in keys


def test_concurrent_threads_lose_no_count_at_the_start_of_a_window(app):
    storage = rate_limits.ProcessStorage()
    for round_ in range(50):
        assert max(at_once(8, lambda _, key=str(round_): storage.incr(key, 60))) == 8


def test_the_limits_are_settings(app, guess):
    app.config.update(LOGIN_LIMIT_PER_SOURCE="2 per minute", LOGIN_LIMIT_PER_ACCOUNT="3/day")
    assert [guess("nobody").status_code for _ in range(3)] == [401, 401, 429]
    answers = [guess("nobody", stranger(1)) for _ in range(2)]
    assert statuses(answers) == {401: 1, 429: 1}
    assert int(answers[-1].headers["Retry-After"]) > 3600


# -- What is not charged ---------------------------------------------------------------


def test_right_passwords_are_never_charged(client, guess, alice):
    for _ in range(30):
        assert guess("alice", password=PASSWORD).status_code == 200
        headers = basic("alice")
        environ = {"REMOTE_ADDR": stranger(1)}
        me = client.get("/api/users/me", headers=headers, environ_base=environ)
        assert me.status_code == 200
    assert guess("nobody").status_code == 401


def test_empty_credentials_and_tokens_are_never_charged(client, guess, alice, token):
    for _ in range(30):
        assert guess("alice", password="").status_code == 401
        assert client.get("/api/users/me", headers=bearer("x")).status_code == 401
        assert client.get("/api/users/me", headers=basic("mbl_" + "0" * 36)).status_code == 401
    assert guess("alice").status_code == 401


def test_wrong_passwords_never_rate_limit_requests_with_a_token(client, guess, alice, token):
    for _ in range(25):
        guess("alice", "127.0.0.1")
    for headers in (bearer(token), basic(token, "")):
        assert client.get("/api/users/me", headers=headers).status_code == 200


def test_wrong_passwords_are_rate_limited_on_every_route(client, alice, hashes):
    wrong = basic("alice", "not the password")
    for number in range(20):
        path = f"/api/{('users', 'tokens', 'users/me', 'access-tokens')[number % 4]}"
        assert client.get(path, headers=wrong).status_code == 401
    for method, path in [("GET", "/api/users"), ("DELETE", "/api/tokens"), ("POST", "/api/tokens")]:
        assert client.open(path, method=method, headers=wrong).status_code == 429
    assert len(hashes) == 20


def test_concurrent_guesses_are_not_checked_beyond_the_budget(app, alice, hashes):
    def guess(number):
        client = app.test_client()
        environ = {"REMOTE_ADDR": HOME}
        headers = basic("alice", f"guess {number}")
        return client.post("/api/tokens", headers=headers, environ_base=environ)

    answers = at_once(40, guess)
    assert statuses(answers) == {401: 20, 429: 20}
    assert len(hashes) == 20


def test_concurrent_log_ins_with_right_passwords_from_one_source_all_succeed(app, register):
    for number in range(40):
        register(f"user{number}")

    def log_in(number):
        return app.test_client().post("/api/tokens", headers=basic(f"user{number}"))

    assert statuses(at_once(40, log_in)) == {200: 40}


# -- The victim ------------------------------------------------------------------------


@pytest.mark.slow
def test_10000_guesses_from_50_sources_do_not_lock_the_owner_out(client, guess, alice, hashes):
    token = guess("alice", password=PASSWORD).json["token"]
    hashes.clear()
    answers = []
    for number in range(10_000):
        answers.append(guess("alice", stranger(number % 50)))
        if number % 500 == 499:
            mine = guess("alice", password=PASSWORD)
            assert (mine.status_code, mine.json["token"]) == (200, token)
            assert client.get("/api/users/me", headers=bearer(token)).status_code == 200
    assert statuses(answers) == {401: 100, 429: 9900}
    assert len(hashes) == 100 + 20


def test_the_owner_may_mistype_during_an_attack(guess, alice):
    guess("alice", password=PASSWORD)
    for number in range(120):
        guess("alice", stranger(number % 40))
    assert guess("alice").status_code == 401
    assert guess("alice", password=PASSWORD).status_code == 200


def test_others_at_the_owners_source_cannot_spend_the_owners_budget(guess, alice):
    guess("alice", password=PASSWORD)
    for number in range(25):
        guess(f"nobody{number}")
    assert guess("nobody").status_code == 429
    assert guess("alice", password=PASSWORD).status_code == 200


def test_a_known_source_has_a_budget_too(guess, alice, hashes):
    guess("alice", password=PASSWORD)
    hashes.clear()
    assert statuses(guess("alice") for _ in range(30)) == {401: 20, 429: 10}
    assert len(hashes) == 20
    # The account's budget elsewhere is not charged.
    assert guess("alice", stranger(1), PASSWORD).status_code == 200


def test_equal_limits_of_source_and_account_are_counted_separately(app, guess, alice):
    app.config.update(dict.fromkeys(LIMITS, "4 per hour"))
    for source, known in ((HOME, True), (stranger(1), False)):
        if known:
            guess("alice", source, PASSWORD)
        assert statuses(guess("alice", source) for _ in range(6)) == {401: 4, 429: 2}


def test_a_right_password_does_not_restore_the_budget_of_a_source(guess, alice, bob):
    for _ in range(20):
        guess("bob")
    assert guess("alice", password=PASSWORD).status_code == 429
    assert guess("bob").status_code == 429


@pytest.mark.parametrize(("days", "status"), [(30, 200), (31.1, 429)])
def test_a_source_is_known_for_30_days(guess, alice, days, status):
    now = datetime.now(UTC)
    with time_machine.travel(now - timedelta(days=days)):
        assert guess("alice", password=PASSWORD).status_code == 200
    for number in range(100):
        guess("alice", stranger(number % 40))
    assert guess("alice", password=PASSWORD).status_code == status


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/tokens"), ("GET", "/api/users/me")])
def test_the_network_is_known_from_which_a_right_password_came(client, guess, alice, method, path):
    environ = {"REMOTE_ADDR": "2a02:1:2:3::1"}
    right = client.open(path, method=method, headers=basic("alice"), environ_base=environ)
    assert right.status_code == 200
    for number in range(100):
        guess("alice", stranger(number % 40))
    assert guess("alice", stranger(41), PASSWORD).status_code == 429
    assert guess("alice", "2a02:1:2:3::2", PASSWORD).status_code == 200


def test_a_wrong_password_is_recorded_also_where_its_answer_is_429(guess, alice, events):
    guess("alice", password=PASSWORD)
    for _ in range(20):
        guess("nobody")
    before = len(events())
    assert guess("alice").status_code == 429
    assert [line["event"] for line in events()[before:]] == ["log_in_failed"]


def test_a_log_in_renews_its_own_source_and_no_other(app, guess, alice, bob):
    now = datetime.now(UTC)
    with time_machine.travel(now - timedelta(days=2)):
        for login, source in (("alice", HOME), ("alice", stranger(1)), ("bob", HOME)):
            assert guess(login, source, PASSWORD).status_code == 200
    assert guess("alice", HOME, PASSWORD).status_code == 200
    with app.app_context():
        recent = KnownSource.last_log_in > now - timedelta(days=1)
        rows = db.session.scalars(sa.select(KnownSource).where(recent)).all()
        assert [(row.user_id, row.source) for row in rows] == [(alice, HOME)]


def test_a_new_password_makes_every_other_source_unknown(client, guess, alice, bob):
    """An attacker who had the old password may have logged in from anywhere."""
    guess("bob", stranger(1), PASSWORD)
    guess("alice", stranger(1), PASSWORD)
    token = guess("alice", HOME, PASSWORD).json["token"]
    body = {"current_password": PASSWORD, "new_password": "battery staple"}
    headers = bearer(token)
    environ = {"REMOTE_ADDR": HOME}
    path = f"/api/users/{alice}/password"
    assert client.put(path, json=body, headers=headers, environ_base=environ).status_code == 204
    for number in range(2, 102):
        guess("alice", stranger(number))
    assert guess("alice", stranger(1), "battery staple").status_code == 429
    assert guess("alice", HOME, "battery staple").status_code == 200
    for number in range(2, 102):
        guess("bob", stranger(number))
    assert guess("bob", stranger(102), PASSWORD).status_code == 429
    assert guess("bob", stranger(1), PASSWORD).status_code == 200  # as before


def test_a_password_that_the_operator_sets_makes_every_source_unknown(app, guess, alice):
    guess("alice", HOME, PASSWORD)
    command = ["users", "password", "alice"]
    app.test_cli_runner().invoke(args=command, input="battery staple\n", catch_exceptions=False)
    for number in range(100):
        guess("alice", stranger(number))
    assert guess("alice", HOME, "battery staple").status_code == 429


def test_a_known_source_is_written_once_a_day_and_deleted_after_30_days(
    app, guess, alice, statements
):
    def writes():
        return [s for s in statements if "known_source" in s and not s.startswith("SELECT")]

    now = datetime.now(UTC)
    with time_machine.travel(now - timedelta(days=40)):
        guess("alice", stranger(1), PASSWORD)
    guess("alice", password=PASSWORD)
    statements.clear()
    guess("alice", password=PASSWORD)
    assert writes() == []
    with time_machine.travel(now + timedelta(days=2)):
        guess("alice", password=PASSWORD)
    assert writes()
    with app.app_context():
        assert db.session.scalars(sa.select(KnownSource.source)).all() == [HOME]


# -- Several processes -----------------------------------------------------------------


@contextmanager
def running_redis():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--save", "", "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield process, f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def redis():
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with running_redis() as redis:
        yield redis


def environment(config_class, redis_url):
    return {
        "DATABASE_URL": config_class.SQLALCHEMY_DATABASE_URI,
        "SECRET_KEY": config_class.SECRET_KEY,
        "ARGON2_MEMORY_KIB": "8",
        "ARGON2_TIME_COST": "1",
        "TRUSTED_PROXIES": "1",
        "REDIS_URL": redis_url,
    }


@pytest.mark.slow
def test_servers_share_the_budgets_through_redis_and_go_on_without_it(
    app, config_class, redis, register
):
    process, url = redis
    register("alice")
    settings = environment(config_class, url)

    def send(server, source, password="not the password"):
        headers = basic("alice", password) | {"X-Forwarded-For": source}
        return server.request("POST", "/api/tokens", headers=headers)

    with Server(**settings) as first, Server(**settings, WEB_CONCURRENCY="2") as second:
        servers = [first, second]
        token = send(first, HOME, PASSWORD).json["token"]
        answers = at_once(
            20,
            lambda n: [send(servers[n % 2], stranger((n * 10 + k) % 40)).status for k in range(10)],
        )
        assert Counter(status for part in answers for status in part) == {401: 100, 429: 100}
        assert send(second, HOME, PASSWORD).status == 200
        right = [send(servers[n % 2], HOME, PASSWORD).status for n in range(30)]
        assert right == [200] * 30  # no charge stays in Redis

        for stop in (signal.SIGSTOP, signal.SIGKILL):
            os.kill(process.pid, stop)
            answers = at_once(
                20, lambda n: [send(servers[n % 2], stranger(n * 10 + k)).status for k in range(10)]
            )
            # Now each of the three processes counts by itself.
            seen = Counter(status for part in answers for status in part)
            assert set(seen) <= {401, 429}
            assert seen[401] <= 300
            assert send(first, HOME, PASSWORD).status == 200
            me = second.request("GET", "/api/users/me", headers=bearer(token))
            assert me.status == 200
    for server, processes in ((first, 1), (second, 2)):
        lines = [line for line in server.output if "Redis does not answer" in line]
        assert 1 <= len(lines) <= processes


@pytest.mark.slow
def test_counting_in_redis_resumes_when_redis_answers_again(app, config_class, redis, monkeypatch):
    process, url = redis
    monkeypatch.setattr(rate_limits, "REDIS_PAUSE_SECONDS", 0.2)
    # A Redis that is slow on a busy machine is not one that is away.
    monkeypatch.setattr(rate_limits, "REDIS_TIMEOUT_SECONDS", 5)
    app = create_app(type("RedisConfig", (config_class,), {"REDIS_URL": url}))
    client = app.test_client()

    def guesses(count):
        return statuses(client.post("/api/tokens", auth=("x", "wrong one")) for _ in range(count))

    assert guesses(15) == {401: 15}
    process.send_signal(signal.SIGSTOP)
    assert guesses(15) == {401: 15}  # counted in the process
    process.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    assert guesses(10) == {401: 5, 429: 5}
    with app.app_context():
        db.engine.dispose()


class FakeRedis:
    """Answers every command with the same bytes, or not at all.

    Attributes:
        received: the bytes of each connection.
    """

    def __init__(self, answer=b""):
        self.answer = answer
        self.received = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):  # shut down
            while True:
                connection, _ = self.server.accept()
                self.received.append(b"")
                arguments = connection, len(self.received) - 1
                threading.Thread(target=self._serve, args=arguments, daemon=True).start()

    def _serve(self, connection, number):
        with suppress(OSError), connection:
            while data := connection.recv(4096):
                self.received[number] += data
                # A command is an array of strings, and begins with its length.
                connection.sendall(self.answer * len(re.findall(rb"\*\d+\r\n", data)))


@pytest.fixture
def fake_redis(monkeypatch):
    """Return a function that starts a `FakeRedis`."""
    with ExitStack() as started:

        def start(answer=b""):
            # One that answers may be slow on a busy machine.
            monkeypatch.setattr(rate_limits, "REDIS_TIMEOUT_SECONDS", 5 if answer else 0.2)
            fake = FakeRedis(answer)
            started.enter_context(fake.server)
            started.callback(fake.server.shutdown, socket.SHUT_RDWR)  # which ends its thread
            return fake

        yield start


@pytest.mark.parametrize("url", ["redis://{}", "redis+sentinel://{}/service"])
def test_a_redis_that_does_not_answer_is_waited_for_once(fake_redis, url):
    fake = fake_redis()
    counters = rate_limits.Counters(url.format(fake.address))
    began = time.monotonic()
    assert counters.is_shared() is False
    assert time.monotonic() - began < 1
    until(lambda: len(fake.received) == 1)
    assert counters.is_shared() is False
    assert len(fake.received) == 1  # not asked again for some seconds


def test_redis_is_asked_again_after_5_seconds_and_no_other_request_waits(fake_redis, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(rate_limits, "monotonic_now", lambda: now)
    counters = rate_limits.Counters(f"redis://{fake_redis().address}")

    def storage():
        return counters.run(lambda limiter: limiter.storage)

    def ask(limiter):
        return limiter.storage, storage()  # the latter is another request meanwhile

    assert counters.is_shared() is False
    now = 1004.9
    assert isinstance(storage(), rate_limits.ProcessStorage)
    now = 1005.0
    of_this, of_other = counters.run(ask)
    assert isinstance(of_this, RedisStorage)
    assert isinstance(of_other, rate_limits.ProcessStorage)


def test_a_warning_about_redis_does_not_have_its_password(fake_redis, caplog):
    fake = fake_redis()
    assert rate_limits.Counters(f"redis://:very-secret@{fake.address}").is_shared() is False
    assert "Redis does not answer; each process counts alone: Timeout reading" in caplog.text
    assert "very-secret" not in caplog.text


def test_each_sentinel_is_asked_for_the_primary(fake_redis):
    fakes = [fake_redis(b"*0\r\n") for _ in range(2)]  # they know of none
    addresses = ",".join(fake.address for fake in fakes)
    assert rate_limits.Counters(f"redis+sentinel://{addresses}/service").is_shared() is False
    for fake in fakes:
        assert b"SENTINEL\r\n$7\r\nMASTERS" in b"".join(fake.received)


def test_keys_in_redis_have_a_prefix_of_their_own(fake_redis):
    fake = fake_redis(b"$-1\r\n")  # nil
    assert rate_limits.Counters(f"redis://{fake.address}").is_shared() is True
    assert b"microblog:health" in b"".join(fake.received)


def test_a_redis_at_a_socket_of_unix_may_be_away(client_of, alice):
    client = client_of(REDIS_URL="unix:///nowhere/redis.sock?db=1")
    assert client.post("/api/tokens", auth=("alice", PASSWORD)).status_code == 200


@pytest.mark.slow
def test_servers_share_the_limit_of_an_access_token_through_redis(server_with, redis, register):
    _, url = redis
    register("alice")
    servers = [server_with(REDIS_URL=url) for _ in range(2)]
    body = {"name": "script", "scope": "read", "limit": "4 per minute"}
    made = (
        servers[0]
        .request("POST", "/api/access-tokens", headers=basic("alice"), json_body=body)
        .json
    )
    answers = [
        servers[number % 2].request("GET", "/api/users/me", headers=bearer(made["token"]))
        for number in range(6)
    ]
    assert [answer.status for answer in answers] == [200] * 4 + [429] * 2
    left = [answer.headers["RateLimit"].split(";")[1] for answer in answers]
    assert left == ["r=3", "r=2", "r=1", "r=0", "r=0", "r=0"]
