"""The credential of a request: a password, or one of three kinds of token."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property, partial
from operator import methodcaller
from typing import Any, ClassVar

import sqlalchemy as sa
import sqlalchemy.orm as so
from flask import after_this_request, current_app, has_request_context

from app.auth.token_headers import charge_request
from app.clock import utc_now
from app.http.headers import request
from app.models import SCOPES, AccessToken, DeviceSession, User
from app.models.lookup import look_up_login_token, look_up_stored_token, put_into_session
from app.models.session import SHARED_ID
from app.models.stored_token import USE_NOTED_EVERY
from app.security import tokens

# The right to change the account itself, which no access token has.
ACCOUNT = "account"
_NEVER = datetime.min.replace(tzinfo=UTC)


class Kind(StrEnum):
    PASSWORD = "password"  # noqa: S105  not a password
    LOGIN_TOKEN = "login token"  # noqa: S105  not a token
    DEVICE_TOKEN = "device token"  # noqa: S105  not a token
    ACCESS_TOKEN = "access token"  # noqa: S105  not a token


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What opened a request (RFC 9110, 11.4). `auth` makes one for each request.

    A new way to come by a credential needs no change behind `auth`.

    Attributes:
        kind: of the credential.
        user_id: of its user.
        username: of its user.
        load_user: returns the user, in the session.
        revoke: ends it, without committing; for a password, the login token of the user.
        renew: extends it, without committing, given the seconds from now and the longest
            age of a log in; returns text and seconds left, or `None` if the log in is too
            old. `None` for what cannot be renewed.
        lock_if_valid: whether it opens a request now; keeps it from being taken away
            until the commit.
        scopes: what it may do: some of `SCOPES`, and `ACCOUNT`.
        roles: of its user; none for an access token, which never has their rights.
        issued_at: of a token; `None` if unknown.
        expires_at: `None` for a password.
        password_given_at: when the user gave the password for it; `None` for an
            access token.
        token_id: of an access token, or of the log in of a device; `None` otherwise.
        name: of an access token, chosen by its owner.
        session_id: of the log in, as in `/api/sessions`; `None` without one.
        note_use: notes that it was used, once the response is sent; `None` where
            uses are not noted, and within an hour of the last one that was.
        charge: counts a request against the limit of its access token, and raises
            `LimitReachedError`; `None` without a limit.
    """

    kind: Kind
    user_id: int
    username: str
    load_user: Callable[[], User]
    revoke: Callable[[], None]
    renew: Callable[[int, timedelta], tuple[str, int] | None] | None = None
    lock_if_valid: Callable[[], bool]
    scopes: tuple[str, ...] = (*SCOPES, ACCOUNT)
    roles: tuple[str, ...] = ()
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    password_given_at: datetime | None = None
    token_id: int | None = None
    name: str | None = None
    session_id: int | None = None
    note_use: Callable[[], None] | None = None
    # Not of `__init__`, where it would cost each request a call.
    charge: Callable[[], None] | None = field(default=None, init=False)

    # The user, to read or to change, without a SELECT; held, as the session drops objects
    # that nobody holds.
    user: ClassVar[cached_property[User]] = cached_property(methodcaller("load_user"))

    def __repr__(self) -> str:  # without the text of a token, or a hash
        return f"<Credential {self.kind} of user {self.user_id}>"

    @property
    def scope(self) -> str:
        """The scopes as RFC 6749, 3.3 writes them."""
        return " ".join(name for name in self.scopes if name in SCOPES)

    @property
    def token_type(self) -> str:
        """The scheme it comes with: "Bearer", or "Basic" for a password."""
        return "Basic" if self.kind is Kind.PASSWORD else "Bearer"

    @property
    def seconds_left(self) -> int | None:
        """Seconds until expiry, rounded; at least 0. `None` for a password."""
        if self.expires_at is None:
            return None
        return max(0, round((self.expires_at - utc_now()).total_seconds()))


def find_credential(text: str) -> Credential | None:
    """Return the credential of a token, expired or not; `None` if the token is unknown."""
    # A token of the tutorial has no prefix; other texts cost no SELECT.
    return _FINDERS.get(text[: tokens.PREFIX_LENGTH], _find_login_token)(text)


def _find_login_token(text: str) -> Credential | None:
    columns = look_up_login_token(text)
    if columns is None or columns["token_expiration"] is None:
        return None
    user_id = columns["id"]
    is_noted = (columns["token_last_used"] or _NEVER) > utc_now() - USE_NOTED_EVERY
    return Credential(
        kind=Kind.LOGIN_TOKEN,
        user_id=user_id,
        username=columns["username"],
        load_user=partial(put_into_session, User, columns),
        revoke=lambda: _revoke_login_token(columns),
        renew=lambda expires_in, max_age: _renew_login_token(columns, expires_in, max_age),
        lock_if_valid=partial(User.lock_if_login_token, user_id, text),
        roles=tuple(columns["roles"]),
        issued_at=columns["logged_in_at"],
        expires_at=columns["token_expiration"],
        password_given_at=columns["logged_in_at"],
        session_id=SHARED_ID,
        note_use=None if is_noted else partial(_note_later, User.note_token_use, user_id),
    )


def _revoke_login_token(columns: dict[str, Any]) -> None:
    user = put_into_session(User, columns)
    # The one that was presented, whatever the session has read before or since.
    so.attributes.set_committed_value(user, "token", columns["token"])
    user.revoke_token()


def _renew_login_token(
    columns: dict[str, Any], expires_in: int, max_age: timedelta
) -> tuple[str, int] | None:
    user = put_into_session(User, columns)
    is_renewed = user.renew_token(expires_in, max_age)
    return (columns["token"], user.token_seconds_left) if is_renewed else None


def _find_device_token(text: str) -> Credential | None:
    found = look_up_stored_token(DeviceSession, text)
    if found is None:
        return None
    token, user = found
    is_noted = (token["last_used"] or _NEVER) > utc_now() - USE_NOTED_EVERY
    return Credential(
        kind=Kind.DEVICE_TOKEN,
        user_id=user["id"],
        username=user["username"],
        load_user=partial(put_into_session, User, user),
        revoke=lambda: put_into_session(DeviceSession, token).revoke(),
        renew=lambda expires_in, max_age: _renew_device_token(text, token, expires_in, max_age),
        lock_if_valid=partial(
            User.lock_if_stored_token, user["id"], DeviceSession, token["digest"]
        ),
        roles=tuple(user["roles"]),
        issued_at=token["created"],
        expires_at=token["token_expiration"],
        password_given_at=token["created"],
        token_id=token["id"],
        session_id=token["id"],
        note_use=None if is_noted else partial(_note_later, DeviceSession.note_use, token["id"]),
    )


def _renew_device_token(
    text: str, columns: dict[str, Any], expires_in: int, max_age: timedelta
) -> tuple[str, int] | None:
    session = put_into_session(DeviceSession, columns)
    is_renewed = session.renew(expires_in, max_age)
    return (text, session.seconds_left) if is_renewed else None


def _find_access_token(text: str) -> Credential | None:
    found = look_up_stored_token(AccessToken, text)
    if found is None:
        return None
    token, user = found
    is_noted = (token["last_used"] or _NEVER) > utc_now() - USE_NOTED_EVERY
    credential = Credential(
        kind=Kind.ACCESS_TOKEN,
        user_id=user["id"],
        username=user["username"],
        load_user=partial(put_into_session, User, user),
        revoke=partial(AccessToken.revoke_text, user["id"], token["digest"]),
        lock_if_valid=partial(User.lock_if_stored_token, user["id"], AccessToken, token["digest"]),
        scopes=tuple(token["scope"].split()),
        issued_at=token["created"],
        expires_at=token["token_expiration"],
        token_id=token["id"],
        name=token["name"],
        note_use=None if is_noted else partial(_note_later, AccessToken.note_use, token["id"]),
    )
    if token["rate_limit"] is not None:
        id = token["current_id"] or token["id"]
        vars(credential)["charge"] = partial(charge_request, id, token["rate_limit"])
    return credential


_FINDERS = {
    tokens.LOGIN_PREFIX: _find_login_token,
    tokens.DEVICE_PREFIX: _find_device_token,
    tokens.ACCESS_PREFIX: _find_access_token,
}


def _note_later(note: Callable[[int], None], id: int) -> None:
    """Note a use after the response; a failure has no effect."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  Flask's way

    def run() -> None:
        with app.app_context():
            try:
                note(id)
            except sa.exc.SQLAlchemyError:
                app.logger.info("the use of a token is not noted")

    after_this_request(lambda response: (response.call_on_close(run), response)[1])


def current_credential() -> Credential | None:
    """Return what opened this request; `None` on a public route, or outside a request."""
    return credential_of_request() if has_request_context() else None


# The same in a request, for what is asked for each item of a page.
credential_of_request: Callable[[], Credential | None] = partial(getattr, request, "credential")
