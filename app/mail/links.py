"""The links in mails: signed, for one purpose, for a limited time; each works once.

A link is bound to what it changes, by a fingerprint: of the password for a new password, of
the addresses for the confirmation of one. Once it was used, or the password or an address
was changed otherwise, the fingerprint is another one. So no table of links is needed.
"""

import hashlib
from datetime import timedelta
from enum import StrEnum
from typing import Any

from flask import current_app
from itsdangerous import BadSignature, TimestampSigner, URLSafeTimedSerializer

from app.clock import utc_now
from app.extensions import use_database_time
from app.models import User


class Purpose(StrEnum):
    RESET = "reset"
    VERIFY = "verify"


class InvalidLinkError(Exception):
    """The link was not made here, was used already, or is bound to what has changed since."""


class ExpiredLinkError(Exception):
    """The link was good, until its time was over."""


class _Signer(TimestampSigner):
    def get_timestamp(self) -> int:
        return int(utc_now().timestamp())


def make_link(purpose: Purpose, user: User) -> str:
    """Return the URL of a page for people, which has the token after its `#`.

    What stands after a `#` is not sent to a server, and reaches no log.
    """
    token = _serializer(purpose).dumps([user.id, _fingerprint(purpose, user)])
    return f"{page_of(purpose)}#token={token}"


def page_of(purpose: Purpose) -> str:
    """Return the URL of the page for people, without a token."""
    config = current_app.config
    url: str | None = config[f"{purpose.upper()}_URL"]
    return url or f"{config['SITE_URL']}/{purpose}"


def seconds_of(purpose: Purpose) -> int:
    """Return how long a link is good, in seconds."""
    seconds: int = current_app.config[f"{purpose.upper()}_LINK_SECONDS"]
    return seconds


def user_of(purpose: Purpose, token: str) -> User:
    """Return the active user for whom the link was made.

    Raises:
        ExpiredLinkError: its time is over.
        InvalidLinkError: it opens nothing, for any other reason.
    """
    try:
        (id, fingerprint), made_at = _serializer(purpose).loads(token, return_timestamp=True)
    except BadSignature:
        raise InvalidLinkError from None
    use_database_time()
    # Not by `max_age`, which takes a link of a clock that is a second ahead for an expired one.
    if utc_now() > made_at + timedelta(seconds=seconds_of(purpose)):
        raise ExpiredLinkError
    user = User.find(id)
    if user is None or fingerprint != _fingerprint(purpose, user):
        raise InvalidLinkError
    return user


def _fingerprint(purpose: Purpose, user: User) -> str:
    """Return a digest of what a link of this purpose changes."""
    state: list[Any] = [user.email]
    if purpose is Purpose.RESET:
        state += [user.password_hash, user.password_changed_at]
    else:
        state += [user.new_email, user.verified_email]
        if user.new_email is not None:  # a new password ends what a thief has asked for
            state += [user.password_changed_at]
    if user.email_changed_at is not None:
        state.append(user.email_changed_at)
    text = repr([str(value) for value in state])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _serializer(purpose: Purpose) -> URLSafeTimedSerializer:
    config = current_app.config
    # The last one signs.
    keys = [*reversed(config["SECRET_KEY_FALLBACKS"] or ()), config["SECRET_KEY"]]
    return URLSafeTimedSerializer(
        # A variable of the environment may have any bytes.
        [key.encode(errors="surrogateescape") for key in keys],
        salt=f"microblog-api mail {purpose}",
        signer=_Signer,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
