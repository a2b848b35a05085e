"""A mail server of a test's own, which it may delay, break and stop."""

import email
import email.policy
import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from tests.helpers import ROOT, make_certificate
from tests.services import Service


@dataclass(frozen=True)
class Mail:
    """A mail that a server has accepted.

    Attributes:
        sender: of the envelope, as `recipients`; "<>" of a bounce.
        content: all of it, as it was sent; lines end in CRLF.
        time: when it was accepted.
        username: who logged in to send it; `None` for nobody.
        port: of the client; mails with the same one came through one connection.
    """

    sender: str
    recipients: list[str]
    content: bytes
    time: datetime
    username: str | None
    port: int

    @cached_property
    def message(self):
        """The parsed `email.message.EmailMessage`."""
        return email.message_from_bytes(self.content, policy=email.policy.default)

    @property
    def text(self):
        """What a reader without HTML sees; lines end in LF."""
        return self.message.get_body(("plain",)).get_content().replace("\r\n", "\n")


class SMTPServer(Service):
    """A mail server that keeps what it accepts: aiosmtpd, in a process of its own.

    What it has accepted outlives `stop`, `kill` and another `start`, as do `behave` and the port.

    Args:
        tls: "starttls" (required before a log in or a mail), "implicit", or `None`.
        username: who has to log in; `None`: nobody can.
        password: of the user.
        smtputf8: whether addresses outside ASCII are offered (RFC 6531).

    Attributes:
        certificate: path of its certificate, PEM, which is its own authority.
        key: path of the key.
    """

    def __init__(
        self, tls="starttls", *, username="mailer", password="of-the-mailer", smtputf8=False
    ):
        super().__init__()
        self.tls, self.smtputf8 = tls, smtputf8
        self.username, self.password = username, password

    @property
    def environment(self):
        """The settings with which the application sends through this server."""
        environment = {
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(self.port),
            "MAIL_USE_TLS": str(self.tls == "starttls").lower(),
            "MAIL_USE_SSL": str(self.tls == "implicit").lower(),
        }
        if self.tls:
            environment["SSL_CERT_FILE"] = str(self.certificate)
        if self.username:
            environment |= {"MAIL_USERNAME": self.username, "MAIL_PASSWORD": self.password}
        return environment

    def create(self):
        self.certificate, self.key = make_certificate(self.folder)
        names = ("port", "tls", "username", "password", "smtputf8")
        settings = {name: getattr(self, name) for name in names}
        (self.folder / "settings.json").write_text(json.dumps(settings))
        (self.folder / "mails.jsonl").touch()
        self.behave()

    def command(self):
        return [sys.executable, "-P", ROOT / "tests" / "smtp_process.py"]

    def behave(self, *, delay=0, refuse=None, refuse_all=None, refuse_content=None, drop=None):
        """Change what happens from the next answer on; without arguments, all goes well.

        Args:
            delay: seconds before each answer.
            refuse: the code for each recipient that is refused, as in {"bob@example.com": 550}.
            refuse_all: the code for all recipients.
            refuse_content: the code after the content of a mail.
            drop: where the connection ends instead of an answer: "connect", "mail" (from),
                "rcpt", "data" (before the content), "content" (the mail is not accepted), or
                "accepted" (the mail is accepted, but the client is not told).
        """
        assert drop in {None, "connect", "mail", "rcpt", "data", "content", "accepted"}
        behaviour = {
            "delay": delay,
            "refuse": {address.lower(): code for address, code in (refuse or {}).items()},
            "refuse_all": refuse_all,
            "refuse_content": refuse_content,
            "drop": drop,
        }
        new = self.folder / "new.json"
        new.write_text(json.dumps(behaviour))
        new.rename(self.folder / "behaviour.json")  # never read by halves

    @property
    def count(self):
        """How many mails have been accepted."""
        return (self.folder / "mails.jsonl").read_bytes().count(b"\n")

    @property
    def mails(self):
        """Each accepted `Mail`, in order."""
        written, _, _ = (self.folder / "mails.jsonl").read_text().rpartition("\n")
        return [_mail(**json.loads(line)) for line in written.splitlines()]

    def mails_to(self, address):
        """Return the mails with this recipient, in order."""
        return [mail for mail in self.mails if address in mail.recipients]

    def wait_for(self, count, seconds=20):
        """Wait until this many mails, or more, have been accepted; return all."""
        self._until(lambda: self.count >= count, seconds)
        return self.mails

    def mail_to(self, address, count=1, seconds=20):
        """Wait until this many mails, or more, have come to an address; return the last one."""
        self._until(lambda: len(self.mails_to(address)) >= count, seconds)
        return self.mails_to(address)[-1]

    def _until(self, condition, seconds):
        give_up = time.monotonic() + seconds
        while not condition():
            arrived = f"only {self.count} mails; the server: {self.output()[-4000:]}"
            assert time.monotonic() < give_up, arrived
            time.sleep(0.05)


def _mail(content, time, **others):  # the names are those in the file
    content = content.encode("utf-8", "surrogateescape")
    return Mail(content=content, time=datetime.fromtimestamp(time, UTC), **others)
