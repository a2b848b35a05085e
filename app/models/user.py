"""A user: their names, what is shown of them, and how they are found."""

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.orm as so
from sqlalchemy.exc import IntegrityError

from app import tokens
from app.columns import UTCDateTime, sealed_forms, utc_now
from app.extensions import db
from app.logins import normal_login
from app.models.access_token import AccessToken
from app.models.credentials import Credentials
from app.models.errors import AlreadyTakenError
from app.models.page import Page, paged
from app.models.total import Total


class User(Credentials):
    username: so.Mapped[str] = so.mapped_column(sa.String(64))
    email: so.Mapped[str] = so.mapped_column(sa.String(254))  # longest address, RFC 5321
    about_me: so.Mapped[str | None] = so.mapped_column(sa.String(140))
    # When the user registered or, later, last asked for a token.
    last_seen: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime, default=utc_now)
    # Kept by `Post` and `Follow` with each change: a page of users counts nothing.
    post_count: so.Mapped[int] = so.mapped_column(default=0, server_default="0")
    follower_count: so.Mapped[int] = so.mapped_column(default=0, server_default="0")
    following_count: so.Mapped[int] = so.mapped_column(default=0, server_default="0")

    def __repr__(self) -> str:
        return f"<User {self.username}>"

    # -- Registering and changing ------------------------------------------------------

    @classmethod
    def register(cls, *, password: str, **fields: Any) -> Self:
        """A new user with an id, not committed.

        Raises:
            AlreadyTakenError: nothing was stored; the session is rolled back.
        """
        user = cls(**fields)
        user.set_password(password)
        db.session.add(user)
        user._flush()
        return user

    def change(self, **fields: Any) -> None:
        """Sets columns of a registered user, without committing.

        Raises:
            AlreadyTakenError: nothing was changed; the session is rolled back.
        """
        for name, value in fields.items():
            setattr(self, name, value)
        self._flush()

    def _flush(self) -> None:
        # Looking first would leave a gap for a second request with the same
        # name; the unique index leaves none. Only then is it asked which one.
        wanted = {"username": self.username, "email": self.email}
        own_id = self.id
        try:
            db.session.flush()
        except IntegrityError:
            db.session.rollback()
            for field, value in wanted.items():
                user = db.session.scalar(_EVEN_DEACTIVATED_BY[field], {"value": value})
                if user is not None and user.id != own_id:
                    raise AlreadyTakenError(field) from None
            raise

    # -- Finding -----------------------------------------------------------------------

    @staticmethod
    def page(page: int, per_page: int) -> Page:
        """A page of all users by ascending id; one past the end is empty."""
        return Page.of(_ALL, page, per_page, Total.of("user"))

    @staticmethod
    def find(id: int) -> "User | None":
        """The user with this id; `None` if there is none, or they are deactivated."""
        user = db.session.get(User, id)
        return user if user is not None and user.deactivated_at is None else None

    @staticmethod
    def find_by_login(login: str) -> "User | None":
        """The user with this user name or e-mail address in any case; `None` as in `find`."""
        return _find_by_login(_BY, login)

    @staticmethod
    def find_even_deactivated(login: str) -> "User | None":
        """As `find_by_login`, and users who are deactivated too."""
        return _find_by_login(_EVEN_DEACTIVATED_BY, login)

    @staticmethod
    def all_even_deactivated() -> Iterator["User"]:
        """Everybody by ascending id, read in portions."""
        everybody = sa.select(User).order_by(User.id).execution_options(yield_per=1000)
        return iter(db.session.scalars(everybody))

    @staticmethod
    def check_token(token: str) -> "User | None":
        """The user whose live token this is, or `None`."""
        user = User.find_by_token(token)
        return user if user is not None and user.has_live_token else None

    @staticmethod
    def find_by_token(token: str) -> "User | None":
        """The user who holds this token, live or expired; `None` if nobody does.

        One SELECT, and none for a text that cannot be a token.
        """
        if not tokens.is_token(token) or tokens.is_access_token(token):
            return None
        current, *former = sealed_forms(token)
        if former:  # while a key is rotated
            user = db.session.scalar(_BY["tokens"], {"values": [current, *former]})
        else:
            user = db.session.scalar(_BY["token"], {"value": current})
        if user is not None:
            # The row was found by this text: no need to decrypt it, and
            # `revoke_token` knows which token was presented.
            so.attributes.set_committed_value(user, "token", token)
        return user

    @staticmethod
    def find_by_access_token(text: str) -> "tuple[User, AccessToken] | None":
        """The user whose access token this is, live or expired, and that token.

        `None` if it is nobody's. One SELECT, and none for a text that cannot be one.
        """
        if not tokens.is_token(text) or not tokens.is_access_token(text):
            return None
        row = db.session.execute(_BY_ACCESS_TOKEN, {"digest": tokens.digest(text)}).first()
        return None if row is None else (row[0], row[1])

    # -- For others to see -------------------------------------------------------------

    def avatar(self, size: int) -> str:
        """URL of the user's picture at Gravatar, `size` pixels wide."""
        digest = hashlib.sha256(self.email.lower().encode()).hexdigest()
        return f"https://www.gravatar.com/avatar/{digest}?d=identicon&s={size}"


# Both unique without regard to case, which is also how they are looked up.
sa.Index("ix_user_username", sa.func.lower(User.username), unique=True)
sa.Index("ix_user_email", sa.func.lower(User.email), unique=True)
# Partial on PostgreSQL, which else takes the column for a key: a new token would
# wait for every post and follower that refers to the user, and they for it.
sa.Index("ix_user_token", User.token, unique=True, postgresql_where=User.token.is_not(None))


Total.keep(User, "user")

# Built once: building a statement costs more than running it.
_TEXT = sa.func.lower(sa.bindparam("value", type_=sa.String))
_IS = {
    "username": sa.func.lower(User.username) == _TEXT,
    "email": sa.func.lower(User.email) == _TEXT,
    "token": User.token == sa.bindparam("value"),
    "tokens": User.token.in_(sa.bindparam("values", expanding=True)),
}
_ACTIVE = sa.select(User).where(User.deactivated_at.is_(None))
_ALL = paged(_ACTIVE.order_by(User.id))
_BY = {name: _ACTIVE.where(criterion) for name, criterion in _IS.items()}
_BY_ACCESS_TOKEN = (
    sa.select(User, AccessToken)
    .join(AccessToken, AccessToken.user_id == User.id)
    .where(AccessToken.digest == sa.bindparam("digest"), User.deactivated_at.is_(None))
)
_EVEN_DEACTIVATED_BY = {name: sa.select(User).where(_IS[name]) for name in ("username", "email")}


def _find_by_login(by: dict[str, sa.Select[User]], login: str) -> User | None:
    if re.search(
        "[\0\ud800-\udfff]", login
    ):  # no database has such text, and says so with an error
        return None
    value = {"value": normal_login(login)}
    # Both in any case: the time does not tell that there is such an address.
    by_email = db.session.scalar(by["email"], value) if "@" in login else None
    by_username = db.session.scalar(by["username"], value)
    return by_email or by_username
