"""Passwords: hashes, the rules for new ones, and the limit on concurrent hashing."""

import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter

import argon2
import pytest
import sqlalchemy as sa
from argon2.exceptions import VerifyMismatchError
from werkzeug.security import generate_password_hash

from app import create_app, db
from app.extensions import engine_options
from app.models import User
from app.security import passwords
from config import Config
from tests.helpers import PASSWORD, ROOT, Server, at_once, basic, bearer

pytestmark = pytest.mark.alone  # the flood of log ins measures how long answers take


@pytest.fixture
def stored_hash(app, alice):
    """Return a function that returns Alice's hash; it stores `new` first, if given."""

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
    assert passwords.DEFAULT_PARAMETERS == (2, 19456)


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


def test_a_hash_is_replaced_also_from_a_source_that_is_known(app, client, stored_hash):
    assert client.post("/api/tokens", auth=("alice", PASSWORD)).status_code == 200
    app.config.update(ARGON2_TIME_COST=2)
    body = {"about_me": "a write that fails"}
    assert client.put("/api/users/0", json=body, headers=basic("alice")).status_code == 403
    assert ",t=2," in stored_hash()


def test_a_get_request_does_not_replace_an_old_hash(client, stored_hash):
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
def test_an_unreadable_hash_matches_no_password(client, stored_hash, broken):
    stored_hash(broken)
    assert client.post("/api/tokens", auth=("alice", PASSWORD)).status_code == 401


def test_a_user_whose_hash_is_null_can_be_given_a_password(app, alice):
    with app.app_context():
        db.session.execute(sa.update(User).values(password_hash=None))
        user = db.session.get(User, alice)
        assert not user.check_password("")
        user.set_password("a new one")
        assert user.check_password("a new one")


def test_a_password_is_set_and_checked_without_an_application_context():
    user = User(username="susan", email="susan@example.com")
    assert not user.check_password("cat")
    user.set_password("cat")
    assert user.check_password("cat")
    assert not user.check_password("dog")
    assert user.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_the_hash_of_nobody_is_computed_like_any_other():
    nobodys = passwords._unmatchable_hash(1, 8)  # noqa: SLF001  a slow test measures it
    with pytest.raises(VerifyMismatchError):  # and not that it cannot be decoded
        argon2.PasswordHasher().verify(nobodys, "correct horse")


def test_an_unreadable_argon2_hash_needs_rehash(app):
    with app.app_context():
        assert passwords.needs_rehash("$argon2id$broken")


# -- Rules for new passwords -----------------------------------------------------------


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("password", "most common"),
        ("aaaaaaaA", "one character repeated"),
        (" " * 8, "one character repeated"),
        ("🙂" * 8, "one character repeated"),
        ("password2026", "a common password and a few"),
        ("!!Dragon1234", "a common password and a few"),
        ("12345678", "most common"),
        ("Password1", "most common"),
        ("ILOVEYOU", "most common"),
        ("trustno1", "most common"),
        ("qwertyuiop", "most common"),
        ("microblog", "'microblog'"),
        ("MicroBlog", "'microblog'"),
        ("microblog2026!", "'microblog'"),
        ("alice.liddell", "your own name"),
        ("Alice.Liddell99", "your own name"),
        ("(alice.liddell)", "your own name"),
        ("wonderland@example.com", "your own name"),
        ("WONDERLAND1", "your own name"),
    ],
)
def test_a_common_or_personal_password_is_refused_with_the_reason(client, password, reason):
    body = {"username": "alice.liddell", "email": "Wonderland@example.com", "password": password}
    response = client.post("/api/users", json=body)
    assert response.status_code == 400
    assert list(response.json["errors"]) == ["password"]
    assert reason in response.json["errors"]["password"][0]
    assert response.json["message"].startswith("password must ")


@pytest.mark.parametrize(
    ("name", "password", "is_accepted"),
    [
        ("86420975318", "86420975318", False),
        ("86420975318", "97531864208", True),
        ("alice99", "alice1234", False),
        ("alicia", "alicia12345678", True),  # as much again as a password needs
        ("alicia", "alicia1234567", False),
        ("alicia", "api-12345", True),  # every service is one
    ],
)
def test_the_own_name_and_a_few_characters_are_refused(client, name, password, is_accepted):
    body = {"username": name, "email": "somebody@example.com", "password": password}
    answer = client.post("/api/users", json=body)
    assert answer.status_code == (201 if is_accepted else 400), answer.json


def test_without_the_blocklist_only_the_length_of_a_password_counts(app, client, register):
    app.config["PASSWORD_BLOCKLIST"] = False
    for number, password in enumerate(("password", "aaaaaaaa", "microblog", "a@example.com")):
        register(f"alice{number}", password=password)
    body = {"username": "bob", "email": "bob@example.com", "password": "1234567"}
    text = "must be 8 to 256 characters long"
    assert client.post("/api/users", json=body).json["errors"] == {"password": [text]}


@pytest.mark.parametrize(
    "password",
    [
        "aaaaaaab",
        "correct horse",
        "my microblog is best",
        "microblog!8#61$0552",
        "alice 83629174",
        "alice in wonderland",
        "пароль и ещё",
        "🙂" * 7 + "!",
        "xy" * 128,
    ],
)
def test_there_are_no_rules_about_kinds_of_characters(client, register, password):
    register("alice", password=password)
    assert client.post("/api/tokens", headers=basic("alice", password)).status_code == 200
    # Nothing is truncated.
    assert client.post("/api/tokens", headers=basic("alice", password[:-1])).status_code == 401


def test_the_part_of_an_imported_name_before_its_first_at_is_an_own_name(app, client, alice):
    with app.app_context():
        db.session.get(User, alice).username = "lemonwater@x@y"
        db.session.commit()
    body = {"current_password": PASSWORD, "new_password": "lemonwater12"}
    headers = basic("alice@example.com")
    answer = client.put(f"/api/users/{alice}/password", json=body, headers=headers)
    assert "your own name" in answer.json["errors"]["new_password"][0]


def test_a_comment_of_the_list_is_no_common_password(register):
    lines = (ROOT / "app" / "security" / "common_passwords.txt").read_text().splitlines()
    comments = [line for line in lines if line.startswith("#") and line == line.lower()]
    register("alice", password=max(comments, key=len))


@pytest.mark.parametrize("name", ["1990", "...", "_"])
def test_a_user_name_without_letters_may_be_part_of_the_password(client, register, name):
    register(name, email="any@example.com", password=f"{name}19901990.-")


def test_the_list_of_common_passwords_names_its_source_and_is_complete():
    text = (ROOT / "app" / "security" / "common_passwords.txt").read_text()
    assert "zxcvbn" in text
    assert "MIT License" in text
    listed = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(set(listed)) == len(listed) == 30_000
    assert all(re.fullmatch(r"\S+", password) for password in listed)


# -- Concurrent hashing ----------------------------------------------------------------


class Slow:
    """A password check that takes `seconds`; `most` is the highest number at once."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.now = self.most = 0
        self.lock = threading.Lock()

    def verify(self, *_):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        raise VerifyMismatchError


@pytest.fixture
def slow(app, monkeypatch):
    def slow(seconds, **settings):
        app.config.update(settings)
        passwords.init_app(app)
        slow = Slow(seconds)
        monkeypatch.setattr("argon2.PasswordHasher.verify", slow.verify)
        return slow

    before = app.extensions["passwords"]
    yield slow
    app.extensions["passwords"] = before


def log_in(app):
    return lambda number: app.test_client().post("/api/tokens", headers=basic(f"user{number}"))


def test_concurrent_hashes_never_exceed_the_limit(app, slow):
    hashing = slow(0.05, PASSWORD_HASH_CONCURRENCY=3, LOGIN_LIMIT_PER_SOURCE="100 per hour")
    answers = at_once(20, log_in(app))
    assert {answer.status_code for answer in answers} == {401}
    assert hashing.most == 3


@pytest.mark.slow
def test_a_log_in_that_waits_over_a_second_for_hashing_gets_503(app, client, token, slow):
    slow(1.5, PASSWORD_HASH_CONCURRENCY=1)
    start = time.monotonic()
    answers = at_once(3, log_in(app))
    assert time.monotonic() - start < 2.5
    assert sorted(answer.status_code for answer in answers) == [401, 503, 503]
    busy = next(answer for answer in answers if answer.status_code == 503)
    assert busy.headers["Retry-After"] == "1"
    assert busy.json == {
        "error": "Service Unavailable",
        "message": "too many passwords are being checked at this moment; try again shortly",
    }


@pytest.mark.slow
def test_a_log_in_refused_before_hashing_is_not_charged(app, slow):
    slow(1.5, PASSWORD_HASH_CONCURRENCY=1, LOGIN_LIMIT_PER_SOURCE="2 per hour")
    at_once(5, log_in(app))
    assert log_in(app)(9).status_code == 401
    assert log_in(app)(9).status_code == 429


@pytest.mark.slow
def test_hashing_leaves_a_quarter_of_the_threads_free(app, slow):
    slow(0.9, PASSWORD_HASH_CONCURRENCY=2, WEB_THREADS=8)
    refused_after = []

    def log_in_timed(number):
        start = time.monotonic()
        status = log_in(app)(number).status_code
        if time.monotonic() - start < 0.5:
            refused_after.append(status)
        return status

    # Two are hashed, four wait, and the others are refused at once.
    assert Counter(at_once(12, log_in_timed))[503] >= 6
    assert refused_after == [503] * 6


def test_a_log_in_holds_no_database_connection_while_it_hashes(app, config_class, alice, slow):
    uri = sa.make_url(config_class.SQLALCHEMY_DATABASE_URI)
    options = engine_options(uri, threads=1) | {"pool_timeout": 0.2}
    one = {"SQLALCHEMY_ENGINE_OPTIONS": options, "PASSWORD_HASH_CONCURRENCY": 1}
    app = create_app(type("OneConnectionConfig", (config_class,), one))
    token = app.test_client().post("/api/tokens", headers=basic("alice")).json["token"]
    slow(0.6)
    thread = threading.Thread(target=log_in(app), args=(1,))
    thread.start()
    time.sleep(0.2)
    assert app.test_client().get("/api/users/me", headers=bearer(token)).status_code == 200
    thread.join()
    with app.app_context():
        db.engine.dispose()


@pytest.mark.slow
def test_a_forked_process_can_hash_passwords(app, config_class):
    """A worker is forked, possibly after the server has hashed something."""
    code = (
        "import os, microblog_api, app.security.passwords as passwords\n"
        "with microblog_api.app.app_context():\n"
        "    passwords.hash_password('before the fork')\n"
        "    if os.fork() == 0:\n"
        "        os._exit(len(passwords.hash_password('after it')) < 50)\n"
        "    raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    environment = {**os.environ, "DATABASE_URL": config_class.SQLALCHEMY_DATABASE_URI}
    environment |= {"SECRET_KEY": "key", "PASSWORD_HASH_CONCURRENCY": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=60)


@pytest.mark.slow
def test_registrations_are_subject_to_the_hashing_limit(app, client, slow, monkeypatch):
    slow(0, PASSWORD_HASH_CONCURRENCY=1)
    monkeypatch.setattr("argon2.PasswordHasher.hash", lambda *_: time.sleep(1.5) or "x")

    def register(number):
        name = f"user{number}"
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        return app.test_client().post("/api/users", json=body)

    answers = at_once(3, register)
    assert sorted(answer.status_code for answer in answers) == [201, 503, 503]


@pytest.mark.slow
def test_200_log_ins_at_once_fail_no_other_request_and_keep_the_memory_bounded(
    config_class, app, register, capsys
):
    for number in range(20):
        register(f"user{number}")
    uri = {"DATABASE_URL": config_class.SQLALCHEMY_DATABASE_URI}
    settings = {"SECRET_KEY": config_class.SECRET_KEY, "PASSWORD_HASH_CONCURRENCY": "2"}
    with Server(**uri, **settings) as server:
        token = server.request("POST", "/api/tokens", headers=basic("user0")).json["token"]
        milliseconds = {"idle": [], "flooded": []}
        server.request("POST", "/api/tokens", headers=basic("user1"))
        before = server.memory_mib()

        def ask(name):
            start = time.perf_counter()
            assert server.request("GET", "/api/users/me", headers=bearer(token)).status == 200
            milliseconds[name].append((time.perf_counter() - start) * 1000)

        for _ in range(100):
            ask("idle")
        done = threading.Event()

        def ask_until_done():
            while not done.is_set():
                ask("flooded")

        asker = threading.Thread(target=ask_until_done)
        asker.start()
        names = [f"user{number % 20}" for number in range(200)]
        answers = at_once(
            200, lambda number: server.request("POST", "/api/tokens", headers=basic(names[number]))
        )
        done.set()
        asker.join()
        after = server.memory_mib()
    seen = Counter(answer.status for answer in answers)
    p99 = {name: statistics.quantiles(times, n=100)[98] for name, times in milliseconds.items()}
    with capsys.disabled():
        print(
            f"\n200 log ins at once: {dict(seen)}; Bearer p99 {p99['idle']:.0f} ms idle, "
            f"{p99['flooded']:.0f} ms flooded; {before} MiB before, {after} MiB after"
        )
    assert set(seen) <= {200, 503}
    assert seen[200] > 0
    # Memory for two hashes and the stacks of 64 threads, not for 64 hashes.
    assert after - before < 150
