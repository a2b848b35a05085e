"""Real servers that send to a real mail server, which may be slow, away, or refuse."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from statistics import median

import pytest
from playwright.sync_api import expect

from app import db
from app.mail.outbox import put_verification
from app.models import User
from benchmarks.equal_cost import mann_whitney_p
from tests.conftest import CHEAP
from tests.helpers import ROOT, Server, basic, json_of, until
from tests.services import OpenSMTPD, free_port
from tests.smtp import SMTPServer

pytestmark = pytest.mark.slow

NEW = "battery staple"
MANY = dict.fromkeys(("MAIL_LIMIT_PER_SOURCE", "MAIL_LIMIT_PER_RECIPIENT"), "1000000 per hour")


@pytest.fixture
def smtp():
    with SMTPServer() as smtp:
        yield smtp


def settings_for(smtp, settings):
    options = {"MAIL_SENT_BY": "server", "SITE_URL": "http://127.0.0.1:5000"} | MANY
    return options | smtp.environment | settings


@pytest.fixture
def start_shared(server_with):
    """Return a function that starts a server that sends to a mail server."""
    return lambda smtp, **settings: server_with(**settings_for(smtp, settings))


@pytest.fixture
def database(tmp_path):
    """The path of the SQLite file of `start`."""
    return tmp_path / "app.db"


@pytest.fixture
def start(database):
    """The same on a database of its own, for tests that do not depend on the database."""
    with ExitStack() as servers:
        key = "of the tests, long enough for no warning"
        own = {"DATABASE_URL": f"sqlite:///{database}", "SECRET_KEY": key}

        def start(smtp, **settings):
            return servers.enter_context(Server(**own | CHEAP | settings_for(smtp, settings)))

        yield start


def waiting(database, columns):
    """Return these columns of the mails that are not sent."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(f"SELECT {columns} FROM outgoing_mail ORDER BY id").fetchall()


@pytest.fixture
def command_with(config_class):
    """Return a function that starts `flask mail send` with a mail server."""

    def command_with(smtp, *options):
        settings = {
            "DATABASE_URL": config_class.SQLALCHEMY_DATABASE_URI,
            "SECRET_KEY": config_class.SECRET_KEY,
            "SITE_URL": "http://127.0.0.1:5000",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "microblog_api", "mail", "send", *options],
            cwd=ROOT,
            env=os.environ | smtp.environment | settings,
            stdout=subprocess.PIPE,
            text=True,
        )

    return command_with


def forget(server, login):
    answer = server.request("POST", "/api/tokens/reset", json_body={"login": login})
    assert answer.status == 202, answer.text


def token_in(mail):
    (token,) = re.findall(r"#token=(\S+)", mail.text)
    return token


def test_register_verify_forget_and_reset_over_starttls_with_a_log_in(smtp, start_shared):
    server = start_shared(smtp)
    assert server.request("POST", "/api/users", json_body=json_of("alice")).status == 201
    asked = smtp.mail_to("alice@example.com")
    assert asked.username == smtp.username
    assert asked.recipients == ["alice@example.com"]
    assert asked.sender == "no-reply@localhost"
    body = {"token": token_in(asked)}
    assert server.request("POST", "/api/email-verifications", json_body=body).status == 204
    forget(server, "alice")
    body = {"token": token_in(smtp.mail_to("alice@example.com", 2)), "new_password": NEW}
    assert server.request("PUT", "/api/tokens/reset", json_body=body).status == 204
    assert server.request("POST", "/api/tokens", headers=basic("alice", NEW)).status == 200
    told = smtp.mail_to("alice@example.com", 3)
    assert told.message["Subject"] == "Your password for Microblog API was changed"


@pytest.mark.parametrize("tls", ["implicit", None])
def test_mail_is_sent_over_tls_from_the_first_byte_or_without_any(start, tls):
    with SMTPServer(tls=tls, username="mailer" if tls else None) as smtp:
        server = start(smtp)
        server.request("POST", "/api/users", json_body=json_of("alice"))
        assert smtp.mail_to("alice@example.com")


def test_the_links_of_mails_work_in_a_browser(smtp, start, open_page):
    port = str(free_port())
    server = start(smtp, PORT=port, SITE_URL=f"http://127.0.0.1:{port}")
    server.request("POST", "/api/users", json_body=json_of("alice"))

    def open_link(mail):
        watched = open_page()
        (link,) = re.findall(r"^http\S+", mail.text, re.MULTILINE)
        watched.page.goto(link)
        return watched.page

    page = open_link(smtp.mail_to("alice@example.com"))
    page.get_by_role("button", name="Confirm this address").click()
    expect(page.get_by_role("status")).to_contain_text("Your address is confirmed")
    me = server.request("GET", "/api/users/me", headers=basic("alice")).json
    assert me["email_verified"] is True

    page = open_page().page
    page.goto(f"{server.url}/reset")
    page.get_by_label("User name or e-mail address").fill("alice@example.com")
    page.get_by_role("button", name="Send me a link").click()
    expect(page.get_by_role("status")).to_contain_text("a mail is on its way")
    mail = smtp.mail_to("alice@example.com", 2)
    for is_first in (True, False):  # a used link leads to a new one
        page = open_link(mail)
        page.get_by_label("New password").fill(NEW)
        page.get_by_role("button", name="Change the password").click()
        if is_first:
            expect(page.get_by_role("status")).to_contain_text("Your password is changed")
        else:
            expect(page.get_by_role("status")).to_contain_text("may have been used already")
            expect(page.get_by_role("button", name="Send me a link")).to_be_visible()
    assert server.request("POST", "/api/tokens", headers=basic("alice", NEW)).status == 200


def test_a_relay_on_the_same_machine_passes_the_mail_on(smtp, start):
    with OpenSMTPD(smtp) as relay:
        server = start(relay)
        server.request("POST", "/api/users", json_body=json_of("alice"))
        mail = smtp.mail_to("alice@example.com", seconds=60)
        assert mail.username == smtp.username
        body = {"token": token_in(mail)}
        assert server.request("POST", "/api/email-verifications", json_body=body).status == 204


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"MAIL_SERVER": "127.0.0.2"}, "refused"),
        ({"MAIL_PASSWORD": "wrong"}, "535"),
    ],
)
def test_where_the_mail_server_cannot_be_trusted_or_used_mail_waits_and_the_log_says_why(
    smtp, start, database, settings, reason
):
    server = start(smtp, **settings)
    assert server.request("POST", "/api/users", json_body=json_of("alice")).status == 201
    said = "mail waits in the outbox: "
    until(lambda: any(said in line and reason in line for line in server.output))
    assert sum(said in line for line in server.output) == 1
    assert smtp.count == 0
    assert len(waiting(database, "id")) == 1


def test_a_server_without_starttls_gets_no_mail(smtp, start):
    with SMTPServer(tls=None, username=None) as plain:
        server = start(smtp, MAIL_PORT=str(plain.port))
        server.request("POST", "/api/users", json_body=json_of("alice"))
        until(lambda: any("STARTTLS extension not supported" in line for line in server.output))
        assert plain.count == 0


@pytest.mark.alone  # measures how long answers take
def test_while_the_mail_server_is_away_requests_are_as_fast_and_nothing_is_lost(smtp, start):
    server = start(smtp)

    def register(numbers):
        times = []
        for number in numbers:
            begin = time.monotonic()
            answer = server.request("POST", "/api/users", json_body=json_of(f"user{number}"))
            times.append(time.monotonic() - begin)
            assert answer.status == 201
        return median(times)

    before = register(range(25))
    smtp.wait_for(25)
    smtp.freeze()  # connects, and never answers
    assert register(range(25, 50)) < 2 * before + 0.02
    smtp.kill()
    time.sleep(4)
    smtp.start()
    smtp.wait_for(50, seconds=70)
    addresses = {mail.recipients[0] for mail in smtp.mails}
    assert addresses == {f"user{number}@example.com" for number in range(50)}
    until(lambda: any("mail is sent again" in line for line in server.output))


@pytest.mark.alone  # measures how long requests take
def test_a_slow_mail_server_slows_down_no_request_and_gets_each_mail_once(smtp, start, database):
    smtp.behave(delay=30)
    server = start(smtp)
    times = []
    for number in range(20):
        begin = time.monotonic()
        server.request("POST", "/api/users", json_body=json_of(f"user{number}"))
        times.append(time.monotonic() - begin)
    assert max(times) < 5
    # Longer than a claim lasts: another sender would get the first mail, if it were not extended.
    time.sleep(100)
    assert [attempts for (attempts,) in waiting(database, "attempts")] == [1] + 19 * [0]
    assert smtp.count == 0
    smtp.behave()
    smtp.wait_for(20, seconds=200)
    time.sleep(2)
    assert smtp.count == 20


def test_a_refused_address_does_not_hold_up_the_others(smtp, start, database):
    smtp.behave(refuse={"user0@example.com": 550})
    server = start(smtp)
    for number in range(5):
        server.request("POST", "/api/users", json_body=json_of(f"user{number}"))
    smtp.wait_for(4)
    until(lambda: waiting(database, "error") == [("550 this recipient is refused",)])
    smtp.behave()
    smtp.mail_to("user0@example.com", seconds=60)


@pytest.mark.parametrize(
    "fault",
    [{"refuse_all": 451}, {"refuse_content": 554}]
    + [{"drop": point} for point in ("connect", "mail", "content")],
    ids=str,
)
def test_whatever_the_mail_server_refuses_nothing_is_lost(smtp, start, database, fault):
    smtp.behave(**fault)
    server = start(smtp)
    for number in range(3):
        answer = server.request("POST", "/api/users", json_body=json_of(f"user{number}"))
        assert answer.status == 201
    until(
        lambda: (
            any("mail waits in the outbox" in line for line in server.output)
            or any(error for (error,) in waiting(database, "error"))
        )
    )
    assert smtp.count == 0
    smtp.behave()
    smtp.wait_for(3, seconds=70)
    time.sleep(1)
    assert smtp.count == 3


def test_a_mail_whose_answer_is_lost_is_sent_again_with_the_same_id(smtp, start):
    smtp.behave(drop="accepted")
    server = start(smtp)
    server.request("POST", "/api/users", json_body=json_of("alice"))
    smtp.wait_for(1)
    smtp.behave()
    smtp.wait_for(2, seconds=40)
    first, second = smtp.mails
    assert first.message["Message-ID"] == second.message["Message-ID"]


def test_of_200_resets_each_that_was_acknowledged_is_mailed_though_the_server_is_killed(
    app, smtp, start_shared
):
    server = start_shared(smtp, WEB_CONCURRENCY="2")
    with app.app_context():
        for number in range(200):
            db.session.add(User(username=f"user{number}", email=f"user{number}@example.com"))
        db.session.commit()
    acknowledged = []

    def ask(number):
        try:
            forget(server, f"user{number}")
        except OSError:
            return
        acknowledged.append(f"user{number}@example.com")

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(200)]
        until(lambda: len(acknowledged) > 100 and smtp.count > 5, seconds=60)
        server.crash()
        for future in asked:
            future.result()
    assert 100 < len(acknowledged) <= 200
    server.process.stdout.close()
    server.start()
    until(
        lambda: {mail.recipients[0] for mail in smtp.mails} >= set(acknowledged),
        seconds=120,  # a claim of the killed sender lasts for 90
    )


def test_two_commands_send_2000_mails_and_each_exactly_once(app, command_with, smtp):
    with app.app_context():
        for number in range(2000):
            user = User(username=f"user{number}", email=f"user{number}@example.com")
            db.session.add(user)
            db.session.flush()
            put_verification(user)
        db.session.commit()
    begin = time.monotonic()
    senders = [command_with(smtp) for _ in range(2)]
    counts = [int(sender.communicate(timeout=300)[0].split()[0]) for sender in senders]
    print(f"2,000 mails in {time.monotonic() - begin:.0f} s, {counts}")
    assert sum(counts) == 2000
    assert min(counts) > 0
    addresses = [mail.recipients[0] for mail in smtp.mails]
    assert sorted(addresses) == sorted(f"user{number}@example.com" for number in range(2000))


def test_a_command_that_follows_sends_what_comes_and_ends_when_it_is_told(
    client, command_with, smtp
):
    with command_with(smtp, "--follow") as sender:
        assert client.post("/api/users", json=json_of("alice")).status_code == 201
        assert smtp.mail_to("alice@example.com")
        sender.terminate()
        assert sender.wait(timeout=20) == 0


def test_a_stop_waits_for_the_mail_that_is_being_sent_but_not_for_a_slow_server(
    smtp, start, database
):
    server = start(smtp)
    smtp.behave(delay=0.1)  # a mail takes half a second
    for number in range(30):
        server.request("POST", "/api/users", json_body=json_of(f"user{number}"))
    smtp.wait_for(2)
    server.stop()
    left = waiting(database, "attempts")
    assert set(left) == {(0,)}  # none is claimed
    assert smtp.count + len(left) == 30
    server.process.stdout.close()
    smtp.behave()
    server.start()
    smtp.wait_for(30, seconds=60)
    smtp.behave(delay=30)
    server.request("POST", "/api/users", json_body=json_of("alice"))
    until(lambda: waiting(database, "attempts") == [(1,)])
    begin = time.monotonic()
    server.stop()
    assert time.monotonic() - begin < 10
    assert len({mail.recipients[0] for mail in smtp.mails}) == smtp.count == 30


@pytest.mark.alone  # measures how long answers take
def test_a_known_and_an_unknown_login_take_the_same_time(smtp, start_shared):
    server = start_shared(smtp)
    server.request("POST", "/api/users", json_body=json_of("alice"))
    smtp.wait_for(1)
    times = {"alice": [], "nobody": []}
    for number in range(2000):
        name = ("alice", "nobody")[(number + number // 2) % 2]
        begin = time.perf_counter()
        forget(server, name)
        times[name].append(time.perf_counter() - begin)
    known, unknown = times.values()
    p = mann_whitney_p(known, unknown)
    print(json.dumps({"p": p, "known": median(known), "unknown": median(unknown)}))
    assert p > 0.001
    assert smtp.count > 500  # and the mails were sent meanwhile
