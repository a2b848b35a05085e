"""What puts mails into the outbox, in the transaction of whoever calls."""

from contextlib import suppress
from datetime import timedelta
from random import SystemRandom
from typing import Any

import sqlalchemy as sa
from flask import current_app, has_request_context

from app.clock import utc_now
from app.extensions import db, use_database_time
from app.mail import sender
from app.mail.messages import RESET, TOKEN_CREATED, VERIFICATION
from app.models import AccessToken, OutgoingMail, User, address_to_verify
from app.security.rate_limits import Limit

# A link for a new password is sent up to this much later. Otherwise sending would slow down
# the next request, but only if the user exists.
RESET_DELAY_SECONDS = 2


def charge_mail(source: str) -> None:
    """Count a link that somebody asks for. The sender counts them for each recipient.

    Args:
        source: as `rate_limits.source_of` gives it.

    Raises:
        LimitReachedError: too many were asked for from there.
    """
    rate = current_app.config["MAIL_LIMIT_PER_SOURCE"]
    Limit("mail per source", rate, source, counts="mails").charge()


def put_mail(kind: str, user: User, **details: Any) -> None:
    """Mail a user, at the address that they have when it is sent.

    Args:
        kind: name of a template.
        user: who gets it.
        details: for the template; what JSON has. Of a text, blanks and line breaks become
            one blank.
    """
    _put(OutgoingMail(kind=kind, user_id=user.id, details=details))


def put_reset(login: str) -> None:
    """Mail a link to set a new password, if there is such a user.

    Only the sender looks: the request takes as long for a user who does not exist.
    """
    use_database_time()
    delay = SystemRandom().uniform(0, RESET_DELAY_SECONDS)
    due = utc_now() + timedelta(seconds=delay)
    _put(OutgoingMail(kind=RESET, details={"login": login}, due=due))


def put_verification(user: User) -> None:
    """Mail a link that confirms the address of the user, if there is one to confirm."""
    recipient = address_to_verify(user)
    if recipient is not None:
        _put(OutgoingMail(kind=VERIFICATION, user_id=user.id, recipient=recipient, details={}))


def put_notice(kind: str, user: User, source: str | None, **details: Any) -> None:
    """Tell the user that something has happened, at the address of this moment.

    Does nothing if `NOTICES` does not have the kind.

    Args:
        kind: of `messages`.
        user: to whom it happened.
        source: address of the client; `None` for a command, or if unknown.
        details: for the template.
    """
    if kind in current_app.config["NOTICES"]:
        details |= {"time": f"{utc_now():%Y-%m-%d %H:%M} UTC", "source": source}
        _put(OutgoingMail(kind=kind, user_id=user.id, recipient=user.email, details=details))


def put_token_notice(user: User, token: AccessToken, source: str | None) -> None:
    """Tell the user of a new access token, as `put_notice` does."""
    expires = f"{token.token_expiration:%Y-%m-%d}"
    put_notice(TOKEN_CREATED, user, source, name=token.name, scope=token.scope, expires=expires)


def _put(mail: OutgoingMail) -> None:
    db.session.add(mail)
    db.session.flush()
    if has_request_context():  # after a command, a server sends it: nobody waits for it
        sa.event.listen(db.session(), "after_commit", _wake_sender, once=True)


def _wake_sender(_session: Any) -> None:
    with suppress(RuntimeError):  # no thread can be started: another process sends it
        sender.wake()
