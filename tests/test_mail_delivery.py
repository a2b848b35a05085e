"""`flask mail send`, in this process, to a real mail server."""

import re

import pytest

from app.models import OutgoingMail
from tests.smtp import SMTPServer

pytestmark = pytest.mark.slow


@pytest.fixture
def send_to(client_of, alice, monkeypatch):
    """Return a function that sends the mail that Alice has due; returns status and output."""

    def send_to(smtp, **settings):
        environment = smtp.environment
        monkeypatch.setenv("SSL_CERT_FILE", environment.pop("SSL_CERT_FILE", ""))
        environment["MAIL_PORT"] = int(environment["MAIL_PORT"])
        for name in ("MAIL_USE_TLS", "MAIL_USE_SSL"):
            environment[name] = environment[name] == "true"
        app = client_of(**{"MAIL_USERNAME": None} | environment | settings).application
        result = app.test_cli_runner().invoke(args=["mail", "send"])
        with app.app_context():
            left = [mail.error for mail in OutgoingMail.all()]
        return result.exit_code, result.output, left

    return send_to


@pytest.mark.parametrize("tls", ["starttls", "implicit", None])
def test_a_mail_arrives_over_each_kind_of_connection(send_to, tls):
    with SMTPServer(tls=tls, username="mailer" if tls else None) as smtp:
        assert send_to(smtp) == (0, "1 mail sent\n", [])
        assert smtp.mail_to("alice@example.com").username == smtp.username


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"refuse_all": 450}, "450 "),
        ({"refuse_content": 554}, "554 "),
        ({"drop": "content"}, "SMTPServerDisconnected: "),
    ],
)
def test_a_mail_that_is_refused_waits_with_what_the_server_has_said(send_to, behaviour, error):
    with SMTPServer() as smtp:
        smtp.behave(**behaviour)
        status, output, (left,) = send_to(smtp)
    assert (status, output.splitlines()[-1]) == (0, "0 mails sent")
    assert left.startswith(error)


@pytest.mark.parametrize(
    ("tls", "behaviour", "settings", "error"),
    [
        ("starttls", {}, {"MAIL_PASSWORD": "another"}, "535 "),
        ("starttls", {"refuse_all": 421}, {}, "421 "),
        ("starttls", {"drop": "connect"}, {}, "SMTPServerDisconnected: "),
        ("starttls", {}, {"MAIL_SERVER": "localhost"}, "certificate verify failed"),
        (None, {}, {"MAIL_USE_TLS": True}, "STARTTLS extension not supported"),
    ],
)
def test_where_the_mail_server_cannot_be_used_the_command_says_why(
    send_to, tls, behaviour, settings, error
):
    with SMTPServer(tls=tls, username="mailer" if tls else None) as smtp:
        smtp.behave(**behaviour)
        status, output, left = send_to(smtp, **settings)
        assert smtp.count == 0
    assert status == 1
    assert re.search(f"Error: .*{error}", output)
    assert len(left) == 1
