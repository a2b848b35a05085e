"""The mail servers of the tests: they accept, keep, refuse and break off as they are told."""

import multiprocessing
import smtplib
import ssl
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import pytest

from tests.helpers import make_certificate, until
from tests.services import OpenSMTPD
from tests.smtp import SMTPServer

pytestmark = pytest.mark.slow

API, BOB, CAROL = "api@example.com", "bob@example.com", "carol@example.com"


@pytest.fixture
def smtp():
    with SMTPServer() as server:
        yield server


@contextmanager
def connected(environment, host="127.0.0.1"):
    """Connect with the settings of a server, and log in."""
    port = int(environment["MAIL_PORT"])
    trust = ssl.create_default_context(cafile=environment.get("SSL_CERT_FILE"))
    options = {"timeout": 20}
    if environment.get("MAIL_USE_SSL") == "true":
        client = smtplib.SMTP_SSL(host, port, context=trust, **options)
    else:
        client = smtplib.SMTP(host, port, **options)
    with client:
        if environment.get("MAIL_USE_TLS") == "true":
            client.starttls(context=trust)
        if "MAIL_USERNAME" in environment:
            client.login(environment["MAIL_USERNAME"], environment["MAIL_PASSWORD"])
        yield client


def send(environment, *recipients):
    message = EmailMessage()
    message["From"] = f"The API <{API}>"
    message["To"] = ", ".join(recipients)
    message["Subject"] = "Grüße"
    message.set_content("Schöne Grüße.\n.\n")
    with connected(environment) as client:
        return client.send_message(message)


def send_many(environment, first, count):
    for number in range(first, first + count):
        send(environment, f"u{number}@example.com")


@pytest.mark.parametrize("tls", ["starttls", "implicit", None])
def test_a_mail_arrives_as_it_was_sent(tls):
    with SMTPServer(tls) as server:
        send(server.environment, BOB, CAROL)
        (mail,) = server.wait_for(1)
    assert (mail.sender, mail.recipients, mail.username) == (API, [BOB, CAROL], "mailer")
    assert (mail.message["Subject"], mail.text) == ("Grüße", "Schöne Grüße.\n.\n")
    assert timedelta(0) <= datetime.now(UTC) - mail.time < timedelta(seconds=20)


def test_nothing_is_accepted_without_starttls_or_a_log_in(smtp):
    with smtplib.SMTP("127.0.0.1", smtp.port, timeout=20) as client:
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail(API, [BOB], "")
        assert b"STARTTLS" in refused.value.smtp_error
        client.starttls(context=ssl.create_default_context(cafile=smtp.certificate))
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail(API, [BOB], "")
        assert b"Authentication" in refused.value.smtp_error
    assert smtp.mails == []


@pytest.mark.parametrize("tls", ["starttls", "implicit", None])
def test_a_wrong_password_is_refused(tls):
    with SMTPServer(tls) as server, pytest.raises(smtplib.SMTPAuthenticationError):
        send(server.environment | {"MAIL_PASSWORD": "wrong"}, BOB)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_another_certificate_and_another_host_are_refused(tls, tmp_path):
    other, _ = make_certificate(tmp_path)
    with SMTPServer(tls) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="self-signed certificate"):
            send(server.environment | {"SSL_CERT_FILE": str(other)}, BOB)
        with (
            pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
            connected(server.environment, host="localhost"),
        ):
            pass


def test_each_answer_is_late(smtp):
    smtp.behave(delay=0.1)
    start = time.monotonic()
    send(smtp.environment, BOB)
    # Greeting, EHLO, STARTTLS, EHLO, AUTH, MAIL, RCPT, DATA, the content, QUIT.
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize(
    ("behaviour", "error", "code"),
    [
        ({"refuse_all": 450}, smtplib.SMTPRecipientsRefused, 450),
        ({"refuse_all": 551}, smtplib.SMTPRecipientsRefused, 551),
        ({"refuse_content": 554}, smtplib.SMTPDataError, 554),
    ],
)
def test_mails_are_refused_until_all_is_well_again(smtp, behaviour, error, code):
    smtp.behave(**behaviour)
    with pytest.raises(error) as refused:
        send(smtp.environment, BOB)
    if error is smtplib.SMTPRecipientsRefused:
        assert refused.value.recipients[BOB][0] == code
    else:
        assert refused.value.smtp_code == code
    assert smtp.mails == []
    smtp.behave()
    send(smtp.environment, BOB)
    assert smtp.count == 1


def test_one_recipient_is_refused_and_the_other_gets_the_mail(smtp):
    smtp.behave(refuse={BOB: 550})
    assert send(smtp.environment, BOB, CAROL)[BOB][0] == 550
    assert smtp.mail_to(CAROL).recipients == [CAROL]


@pytest.mark.parametrize(
    ("drop", "accepted"),
    [("connect", 0), ("mail", 0), ("rcpt", 0), ("data", 0), ("content", 0), ("accepted", 1)],
)
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_the_connection_ends_in_the_middle(tls, drop, accepted):
    with SMTPServer(tls) as server:
        server.behave(drop=drop)
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
            send(server.environment, BOB)
        assert server.count == accepted


def test_what_was_accepted_outlives_a_crash(smtp):
    send(smtp.environment, BOB)
    smtp.kill()
    with pytest.raises(ConnectionRefusedError):
        send(smtp.environment, BOB)
    smtp.start()
    send(smtp.environment, BOB)
    first, second = smtp.mails
    assert smtp.mail_to(BOB, count=2) == second
    assert first.time < second.time


def test_each_mail_from_two_processes_is_counted(smtp):
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for sent in [pool.submit(send_many, smtp.environment, first, 100) for first in (0, 100)]:
            sent.result()
    recipients = [mail.recipients for mail in smtp.mails]
    assert sorted(recipients) == sorted([f"u{number}@example.com"] for number in range(200))


# -- deployment/opensmtpd/smtpd.conf ---------------------------------------------------


def test_opensmtpd_passes_a_mail_on(smtp):
    with OpenSMTPD(smtp) as relay:
        send(relay.environment, BOB)
        mail = smtp.mail_to(BOB)
        assert (mail.sender, mail.username) == (API, "mailer")
        assert (mail.message["Subject"], mail.text) == ("Grüße", "Schöne Grüße.\n.\n")
        until(lambda: relay.queue() == [])


def test_opensmtpd_keeps_a_mail_while_the_provider_is_down_even_over_a_crash(smtp):
    with OpenSMTPD(smtp) as relay:
        smtp.stop()
        send(relay.environment, BOB)
        relay.kill()
        relay.start()
        assert relay.queue() == [BOB]
        smtp.start()
        relay.drain()
    (mail,) = smtp.mails
    assert mail.recipients == [BOB]


def test_opensmtpd_passes_nothing_on_to_a_server_that_it_cannot_trust(smtp, tmp_path):
    other, _ = make_certificate(tmp_path)
    with OpenSMTPD(smtp, authority=other) as relay:
        send(relay.environment, BOB)
        until(lambda: "SSL certificate check failed" in relay.output())
        assert relay.queue() == [BOB]
    assert smtp.count == 0
