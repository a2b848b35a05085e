"""Who sends: a thread of each process that serves, or the command `flask mail send`.

Several may run, on several machines: a mail is claimed by one of them.
"""

import logging
import threading

import sqlalchemy as sa
from flask import Flask, current_app

from app.clock import monotonic_now
from app.extensions import IN_MEMORY, db
from app.mail.delivery import Delivery, RefusedError, UnavailableError, delivery_of
from app.mail.messages import LIMITED, message_of, user_of
from app.models import OutgoingMail, User
from app.models.outgoing_mail import CLAIM_SECONDS
from app.security.rate_limits import Limit, LimitReachedError

POLL_SECONDS = 5  # for mails of other processes, and those to be tried again
FIRST_PAUSE_SECONDS = 1  # where the mail server is away; doubled by each further attempt
LONGEST_PAUSE_SECONDS = 60
STOP_SECONDS = 3  # that the end of a process waits for the mail that is being sent

_log = logging.getLogger("microblog_api.mail")


def init_app(app: Flask) -> None:
    app.extensions["mail"] = Sender(app)


def wake() -> None:
    """Send what is in the outbox now, where this process sends; do not wait for it."""
    sender: Sender = current_app.extensions["mail"]
    sender.wake()


class Sender:
    """Sends the mails of the outbox, one after another.

    Args:
        app: has the settings.
        delivery: how mails leave; by default as the settings say.
    """

    def __init__(self, app: Flask, delivery: Delivery | None = None) -> None:
        self._app = app
        self._mail: OutgoingMail | None = None  # that is being sent
        self._claimed_at = 0.0
        self._delivery = delivery or delivery_of(app, self._hold_claim)
        self._is_away = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    # -- In a server -------------------------------------------------------------------

    def wake(self) -> None:
        """Go on at once; start the thread if this process sends and has none.

        Never in a test, or with a database in memory: all threads share its one connection.
        """
        app = self._app
        in_memory = db.engine.url.database in IN_MEMORY
        if app.config["MAIL_SENT_BY"] == "server" and not app.testing and not in_memory:
            self.start()
            self._wake.set()

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self.follow, daemon=True, name="mail")
                self._thread.start()
                main = threading.main_thread()
                threading.Thread(target=self._stop_with, args=[main], name="mail stop").start()

    def _stop_with(self, main: threading.Thread) -> None:
        """Let the mail that is being sent be finished when the process ends, for a while."""
        main.join()
        self.stop()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def stop(self) -> None:
        """Have `follow` return after the mail that is being sent."""
        self._stop.set()
        self._wake.set()

    # -- Sending -----------------------------------------------------------------------

    def follow(self) -> None:
        """Send mails as they come, until `stop`."""
        pause = 0.0
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.send_due()
                with self._app.app_context():
                    wait = OutgoingMail.seconds_to_wait()
            except Exception as error:  # noqa: BLE001  whatever it is, others are sent later
                if not isinstance(error, UnavailableError | sa.exc.SQLAlchemyError):
                    _log.exception("the outbox cannot be read")
                pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
                self._stop.wait(pause)  # new mails change nothing
            else:
                pause = 0
                self._wake.wait(POLL_SECONDS if wait is None else min(wait, POLL_SECONDS))

    def send_due(self) -> int:
        """Send all mails that are due; return how many were sent.

        Raises:
            UnavailableError: the mail server cannot be used. Logged, the first time.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be used. Likewise.
        """
        sent = 0
        try:
            while not self._stop.is_set():
                with self._app.app_context():
                    mail = self._mail = OutgoingMail.claim()
                    self._claimed_at = monotonic_now()
                    is_sent = mail is not None and self._send(mail)
                if is_sent:
                    sent += 1
                    self._note_away(None)
                if mail is None:
                    break
        except (UnavailableError, sa.exc.SQLAlchemyError) as error:
            self._note_away(error)
            raise
        finally:
            self._mail = None
            self._delivery.close()
        return sent

    def _send(self, mail: OutgoingMail) -> bool:
        """Send a mail that is claimed; return whether it was sent."""
        charged = None
        is_taken = False
        try:
            user = user_of(mail)
            message = None if user is None else message_of(mail, user)
            limit = None if user is None else self._limit_of(mail, user)
            db.session.commit()  # no transaction stays open while the mail server answers
            if message is not None:
                if limit is not None:
                    charged = limit
                    charged.charge()
                self._delivery.send(message)
                is_taken = True
        except LimitReachedError:
            _log.warning("mail %s (%s): its recipient has had too many", mail.id, mail.kind)
        except (UnavailableError, sa.exc.SQLAlchemyError) as error:
            if isinstance(error, UnavailableError):
                self._put_back(mail, error, is_refused=False)
            raise
        except _ClaimLostError:
            _log.warning("mail %s (%s): another sender has taken it over", mail.id, mail.kind)
            return False
        except RefusedError as error:
            self._put_back(mail, error, is_refused=True)
            return False
        except Exception as error:  # noqa: BLE001  a template, or an imported address, is wrong
            _log.exception("mail %s (%s) cannot be written", mail.id, mail.kind)
            self._put_back(mail, error, is_refused=True)
            return False
        finally:
            if charged is not None and not is_taken:
                charged.refund()  # or its next attempts would use up the limit
        mail.forget()
        return is_taken

    def _limit_of(self, mail: OutgoingMail, user: User) -> Limit | None:
        """Return the limit of mails of this kind to the recipient; `None` if there is none.

        Counted here, and not where a mail is put into the outbox: only now its recipient is
        known. Nobody else uses up the limit of a user whose address is verified. Addresses of one
        mailbox with a tag, such as victim+1@example.com, have one limit together.
        """
        if mail.kind not in LIMITED:
            return None
        recipient = mail.recipient or user.email
        key: str | int = user.id
        if recipient != user.verified_email:
            local, _, domain = recipient.lower().rpartition("@")
            name, tag, _ = local.partition("+")
            key = f"{name}{tag}@{domain}"
        rate = self._app.config["MAIL_LIMIT_PER_RECIPIENT"]
        return Limit("mail per recipient", rate, mail.kind, key, counts="mails")

    def _put_back(self, mail: OutgoingMail, error: Exception, *, is_refused: bool) -> None:
        # The text may have the address of the user: `flask mail list` shows it.
        if mail.put_back(str(error), is_refused=is_refused):
            _log.error("mail %s (%s) is given up; attempts: %s", mail.id, mail.kind, mail.attempts)
        elif is_refused:
            _log.warning("mail %s (%s): attempt %s failed", mail.id, mail.kind, mail.attempts)

    def _hold_claim(self) -> None:
        """Extend the claim where a part of its time is over.

        Raises:
            _ClaimLostError: another sender has the mail.
        """
        if self._mail is None or monotonic_now() < self._claimed_at + CLAIM_SECONDS / 4:
            return
        if not self._mail.extend_claim():
            raise _ClaimLostError
        self._claimed_at = monotonic_now()

    def _note_away(self, error: Exception | None) -> None:
        if error is not None and not self._is_away:
            reason = error.__cause__ or error  # without the statement of SQLAlchemy
            _log.warning("mail waits in the outbox: %s", " ".join(str(reason).split()))
        elif error is None and self._is_away:
            _log.warning("mail is sent again")
        self._is_away = error is not None


class _ClaimLostError(Exception):
    """The claim of a mail has ended, and another sender has the mail."""
