"""How a mail leaves: to the mail server of the settings, or into a folder without one.

Python's `smtplib` does it: the packages around it, such as Flask-Mailman, add neither an
outbox nor retries.
"""

import logging
import os
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Protocol

from flask import Flask

from ownership import give_to_owner_of_folder, make_folder

ANSWER_SECONDS = 40  # that the mail server may take for each line of its answers
CLOSING = 421  # "I shall close this connection" (RFC 5321, 3.8), whatever the mail
MOST_FILES = 1000  # in the folder; the oldest are deleted

_log = logging.getLogger("microblog_api.mail")


class UnavailableError(Exception):
    """The mail server cannot be used at this moment, whatever the mail."""


class RefusedError(Exception):
    """This mail was not taken."""


class Delivery(Protocol):
    def send(self, message: EmailMessage) -> None:
        """Hand a mail over.

        Raises:
            UnavailableError: another mail would not be taken, either.
            RefusedError: only this one was not.
        """

    def close(self) -> None: ...


class MailServer:
    """The mail server of the settings. A connection is opened for the first mail, and kept.

    Args:
        app: has the settings.
        before_answer: called before an answer is waited for, up to `ANSWER_SECONDS`.
    """

    def __init__(self, app: Flask, before_answer: Callable[[], None]) -> None:
        self._config = app.config
        self._before_answer = before_answer
        self._connection: smtplib.SMTP | None = None

    def send(self, message: EmailMessage) -> None:
        connection = self._connection = self._connection or self._connect()
        is_open = False
        try:
            connection.send_message(message)
            is_open = True
        except (OSError, smtplib.SMTPException) as error:
            code, text = _code_and_text(error)
            if code == CLOSING:
                raise UnavailableError(text) from None
            # It has answered; after another error the state of the connection is unknown.
            is_open = code is not None and connection.sock is not None
            raise RefusedError(text) from None
        finally:
            if not is_open:
                self.close()

    def _connect(self) -> smtplib.SMTP:
        config = self._config
        self._before_answer()
        tls = ssl.create_default_context()  # certificate and host name are checked
        options: dict[str, Any] = {"before_answer": self._before_answer, "timeout": ANSWER_SECONDS}
        kind: type[_Connection] = _Connection
        if config["MAIL_USE_SSL"]:
            kind, options["context"] = _ConnectionOverTLS, tls
        connection = None
        try:
            connection = kind(config["MAIL_SERVER"], config["MAIL_PORT"], **options)
            if config["MAIL_USE_TLS"]:
                connection.starttls(context=tls)  # raises where the server does not offer it
            if config["MAIL_USERNAME"] is not None:
                connection.login(config["MAIL_USERNAME"], config["MAIL_PASSWORD"])
        except (OSError, smtplib.SMTPException) as error:
            if connection is not None:
                connection.close()
            raise UnavailableError(_code_and_text(error)[1]) from None
        return connection

    def close(self) -> None:
        """Close the connection, if there is one, without waiting for an answer."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Connection(smtplib.SMTP):
    def __init__(self, *args: Any, before_answer: Callable[[], None], **kwargs: Any) -> None:
        self._before_answer = before_answer
        super().__init__(*args, **kwargs)

    def getreply(self) -> tuple[int, bytes]:
        self._before_answer()
        return super().getreply()


class _ConnectionOverTLS(_Connection, smtplib.SMTP_SSL):
    pass


def _code_and_text(error: Exception) -> tuple[int | None, str]:
    """Return what the mail server has answered; `None` and the error where it has not."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        error = smtplib.SMTPResponseException(*next(iter(error.recipients.values())))
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        return error.smtp_code, " ".join(f"{error.smtp_code} {text}".split())
    return None, f"{type(error).__name__}: {' '.join(str(error).split())}"


class Folder:
    """A folder in place of a mail server: a file for each mail, to try it all out."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, message: EmailMessage) -> None:
        name = message["Message-ID"].strip("<>").partition("@")[0]
        file = self._path / f"{message['Date'].datetime:%Y%m%dT%H%M%S}-{name}.eml"
        part = file.with_suffix(".part")
        try:
            make_folder(self._path, 0o700)
            part.unlink(missing_ok=True)  # also a link, through which root would write
            # Only for its owner: it has a link that opens an account.
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(bytes(message))
                give_to_owner_of_folder(part, descriptor)
            part.rename(file)
            for old in sorted(self._path.glob("*.eml"))[:-MOST_FILES]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise UnavailableError(f"{error.filename or file}: {error.strerror}") from None
        _log.warning("MAIL_SERVER is not set: a mail is in %s", file)

    def close(self) -> None:
        pass


def delivery_of(app: Flask, before_answer: Callable[[], None]) -> Delivery:
    """Return how the settings have mail leave; see `MailServer`."""
    if app.config["MAIL_SERVER"] is None:
        return Folder(Path(app.instance_path) / "mail")
    return MailServer(app, before_answer)
