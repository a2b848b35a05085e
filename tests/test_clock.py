"""Two machines share a PostgreSQL database, and the clock of one of them is wrong."""

import os
import secrets
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from app import clock, db
from app.models import OutgoingMail
from tests.conftest import TEST_DATABASE_URL, postgresql_database
from tests.helpers import PASSWORD, ROOT, Server, basic, bearer

SET_CLOCK = """
import os, runpy, signal, sys
from datetime import UTC, datetime, timedelta
import time_machine

def set_clock(*_):
    hours = timedelta(hours=float(os.environ["AHEAD"]))
    time_machine.travel(datetime.now(UTC) + hours).start()
"""
# Runs server.py; at SIGUSR2 its processes set their clock.
SERVER = f"""{SET_CLOCK}
os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGUSR2, set_clock))
sys.argv = ["server.py"]
sys.path.insert(0, os.getcwd())
if os.environ["WHEN"] == "at the start":
    set_clock()
runpy.run_path("server.py", run_name="__main__")
"""


class Machine(Server):
    """A server whose clock can be set."""

    def __init__(self, url, secret_key, hours=0, when="later"):
        super().__init__(
            command=(sys.executable, "-c", SERVER),
            DATABASE_URL=url,
            SECRET_KEY=secret_key,
            AHEAD=str(hours),
            WHEN=when,
        )

    def set_clock(self):
        for worker in self.workers():
            os.kill(worker, signal.SIGUSR2)
        time.sleep(0.2)

    def log_in(self):
        answer = self.request("POST", "/api/tokens", headers=basic("alice"))
        assert answer.status == 200, answer.text
        return answer.json["token"]

    def status_of(self, token):
        return self.request("GET", "/api/users/me", headers=bearer(token)).status


@pytest.fixture(params=[2, -2], ids=["2 hours ahead", "2 hours behind"])
def machines(request):
    """A server, one with a clock that can be set, and the URL of their database."""
    if not TEST_DATABASE_URL:
        pytest.skip("SQLite is not shared by machines")
    key = secrets.token_urlsafe(48)
    with postgresql_database() as url:
        environment = os.environ | {"DATABASE_URL": url, "SECRET_KEY": key}
        upgrade = [sys.executable, "-m", "flask", "--app", "microblog_api", "db", "upgrade"]
        subprocess.run(upgrade, cwd=ROOT, env=environment, check=True, capture_output=True)
        with Machine(url, key) as right, Machine(url, key, request.param) as wrong:
            body = {"username": "alice", "email": "alice@example.com", "password": PASSWORD}
            assert right.request("POST", "/api/users", json_body=body).status == 201
            yield right, wrong, url


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_clock_that_is_two_hours_off_logs_nobody_out_postgresql(machines, when):
    right, wrong, _ = machines
    if when == "later":
        before = wrong.log_in()
        wrong.set_clock()
    else:
        before = right.log_in()
        wrong.stop()
        wrong.process.stdout.close()
        wrong.environment["WHEN"] = when
        wrong.start()
    shown = wrong.request("GET", "/api/tokens", headers=bearer(before)).json["expires_in"]
    assert 3500 < shown <= 3600
    for token in [before, wrong.log_in(), right.log_in()]:
        assert right.status_of(token) == wrong.status_of(token) == 200


def test_a_clock_that_is_two_hours_off_revives_nothing_postgresql(machines):
    right, wrong, url = machines
    wrong.set_clock()
    expired = right.log_in()
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("UPDATE \"user\" SET token_expiration = now() - interval '1 second'")
    assert right.status_of(expired) == wrong.status_of(expired) == 401
    revoked = wrong.log_in()
    assert revoked != expired
    assert wrong.request("DELETE", "/api/tokens", headers=bearer(revoked)).status == 204
    for token in [expired, revoked]:
        assert right.status_of(token) == wrong.status_of(token) == 401


def test_the_time_of_the_server_is_that_of_the_database_postgresql(machines):
    _, wrong, url = machines
    wrong.set_clock()
    wrong.log_in()
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        (logged_in_at,) = connection.execute('SELECT logged_in_at FROM "user"').fetchone()
    assert abs((datetime.now(UTC) - logged_in_at).total_seconds()) < 5


# Runs a command of `flask` on a machine whose clock is wrong.
COMMAND = f"""{SET_CLOCK}
set_clock()
from microblog_api import app

result = app.test_cli_runner().invoke(args=sys.argv[1:])
print(result.output)
sys.exit(result.exit_code)
"""


@pytest.mark.parametrize("machines", [2], ids=["2 hours ahead"], indirect=True)
def test_a_clock_that_is_two_hours_ahead_prunes_no_live_token_postgresql(machines):
    right, wrong, url = machines
    body = {"name": "backup", "scope": "read", "expires_in": 3600}
    made = right.request("POST", "/api/access-tokens", json_body=body, headers=basic("alice")).json[
        "token"
    ]
    environment = os.environ | wrong.environment | {"DATABASE_URL": url}
    prune = [sys.executable, "-c", COMMAND, "tokens", "prune", "--days", "0"]
    subprocess.run(prune, cwd=ROOT, env=environment, check=True)
    assert right.status_of(made) == 200


def test_an_answer_that_was_long_on_its_way_does_not_set_the_clock(monkeypatch):
    monkeypatch.setattr(clock, "_database_began", None)
    monkeypatch.setattr(clock, "utc_now", clock.partial(datetime.now, UTC))
    start = datetime(2030, 1, 1, tzinfo=UTC)
    clock.set_clock(start, clock.steady_now() - 5)  # the first one is better than none
    assert clock.utc_now() >= start
    clock.set_clock(start, clock.steady_now())
    now = clock.utc_now()
    clock.set_clock(start - timedelta(hours=1), clock.steady_now() - 2)
    assert now <= clock.utc_now() < now + timedelta(seconds=10)


@pytest.fixture
def asked(app, monkeypatch):
    """The modules that have asked for the time; the session must be connected by then."""
    asked = set()

    def watch(module):
        def now():
            assert db.session().in_transaction()
            asked.add(module)
            return clock.utc_now()

        monkeypatch.setattr(f"{module}.utc_now", now)

    modules = ("app.models.outgoing_mail", "app.mail.outbox", "app.mail.links", "app.cli.tokens")
    for module in modules:
        watch(module)
    return asked


def test_a_mail_is_claimed_and_tried_again_at_the_time_of_the_database(app, alice, asked):
    for act in (OutgoingMail.claim, OutgoingMail.retry_given_up):
        with app.app_context():
            act()
        assert asked == {"app.models.outgoing_mail"}
        asked.clear()


def test_a_link_for_a_new_password_is_due_at_the_time_of_the_database(client, asked):
    answer = client.post("/api/tokens/reset", json={"email": "alice@example.com"})
    assert (answer.status_code, asked) == (202, {"app.mail.outbox"})


@pytest.mark.parametrize("kind", ["reset", "verification"])
def test_a_link_is_good_by_the_time_of_the_database(client, alice, mailbox, asked, kind):
    body = {"token": mailbox.token()}
    method, path = "POST", "/api/email-verifications"
    if kind == "reset":
        client.post("/api/tokens/reset", json={"login": "alice"})
        body = {"token": mailbox.token(), "new_password": "another one"}
        method, path = "PUT", "/api/tokens/reset"
    asked.clear()
    assert client.open(path, method=method, json=body).status_code == 204
    assert "app.mail.links" in asked


@pytest.mark.parametrize("command", ["prune", "doctor"])
def test_tokens_are_examined_and_pruned_at_the_time_of_the_database(app, asked, command):
    result = app.test_cli_runner().invoke(args=["tokens", command])
    assert (result.exception, asked) == (None, {"app.cli.tokens"})
