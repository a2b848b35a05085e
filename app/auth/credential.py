"""The credential of a request: a password, a login token, or an access token."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property, partial
from operator import methodcaller
from typing import Any, ClassVar

import sqlalchemy as sa
import sqlalchemy.orm as so
from flask import after_this_request, current_app, has_request_context

from app.clock import utc_now
from app.http.headers import request
from app.models import SCOPES, AccessToken, User
from app.models.lookup import look_up_access_token, look_up_login_token, put_into_session
from app.security import tokens

# The right to change the account itself, which no access token has.
ACCOUNT = "account"


class Kind(StrEnum):
    PASSWORD = "password"  # noqa: S105  not a password
    LOGIN_TOKEN = "login token"  # noqa: S105  not a token
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
        lock_if_valid: whether it opens a request now; keeps it from being taken away
            until the commit.
        scopes: what it may do: some of `SCOPES`, and `ACCOUNT`.
        issued_at: of a token; `None` if unknown.
        expires_at: `None` for a password.
        password_given_at: when the user gave the password for it; `None` for an
            access token.
        name: of an access token, chosen by its owner.
        note_use: notes that it was used, once the response is sent; `None` where
            uses are not noted.
    """

    kind: Kind
    user_id: int
    username: str
    load_user: Callable[[], User]
    revoke: Callable[[], None]
    lock_if_valid: Callable[[], bool]
    scopes: tuple[str, ...] = (*SCOPES, ACCOUNT)
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    password_given_at: datetime | None = None
    name: str | None = None
    note_use: Callable[[], None] | None = None

    # The user, to read or to change, without a SELECT; held, as the session drops objects
    # that nobody holds.
    user: ClassVar[cached_property[User]] = cached_property(methodcaller("load_user"))

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
    if text.startswith(tokens.ACCESS_PREFIX):
        return _find_access_token(text)
    columns = look_up_login_token(text)
    if columns is None or columns["token_expiration"] is None:
        return None
    user_id = columns["id"]
    return Credential(
        kind=Kind.LOGIN_TOKEN,
        user_id=user_id,
        username=columns["username"],
        load_user=partial(put_into_session, User, columns),
        revoke=partial(_revoke_login_token, columns),
        lock_if_valid=partial(User.lock_if_login_token, user_id, text),
        issued_at=columns["logged_in_at"],
        expires_at=columns["token_expiration"],
        password_given_at=columns["logged_in_at"],
    )


def _revoke_login_token(columns: dict[str, Any]) -> None:
    user = put_into_session(User, columns)
    # The one that was presented, whatever the session has read before or since.
    so.attributes.set_committed_value(user, "token", columns["token"])
    user.revoke_token()


def _find_access_token(text: str) -> Credential | None:
    found = look_up_access_token(text)
    if found is None:
        return None
    token, user = found
    id = token["id"]
    use_is_noted = AccessToken.use_is_noted(token["last_used"])
    return Credential(
        kind=Kind.ACCESS_TOKEN,
        user_id=user["id"],
        username=user["username"],
        load_user=partial(put_into_session, User, user),
        revoke=lambda: put_into_session(AccessToken, token).revoke(),
        lock_if_valid=partial(User.lock_if_access_token, user["id"], id),
        scopes=tuple(token["scope"].split()),
        issued_at=token["created"],
        expires_at=token["token_expiration"],
        name=token["name"],
        note_use=None if use_is_noted else partial(_note_use, id),
    )


def _note_use(id: int) -> None:
    """Note the use of an access token after the response; a failure has no effect."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  Flask's way

    def note() -> None:
        with app.app_context():
            try:
                AccessToken.note_use(id)
            except sa.exc.SQLAlchemyError:
                app.logger.info("the use of access token %s is not noted", id)

    after_this_request(lambda response: (response.call_on_close(note), response)[1])


def current_credential() -> Credential | None:
    """Return what opened this request; `None` on a public route, or outside a request."""
    return credential_of_request() if has_request_context() else None


# The same in a request, for what is asked for each item of a page.
credential_of_request: Callable[[], Credential | None] = partial(getattr, request, "credential")
