"""A user: registering, changing, finding, and the password; `HasLogin` has the login token."""

import hashlib
from functools import lru_cache
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.orm as so
from sqlalchemy.exc import IntegrityError

from app.clock import utc_now
from app.extensions import PRIMARY, db, rows_changed
from app.models.access_token import AccessToken
from app.models.errors import AlreadyTakenError
from app.models.known_source import KnownSource
from app.models.login import HasLogin, wait_for_writers
from app.models.page import Page, paged
from app.models.total import Total
from app.security import passwords, tokens


class User(HasLogin):
    about_me: so.Mapped[str | None] = so.mapped_column(sa.String(140))
    # Kept by `Post` and `Follow` with each change: a page of users counts nothing.  # microblog
    post_count: so.Mapped[int] = so.mapped_column(default=0, server_default="0")  # microblog
    follower_count: so.Mapped[int] = so.mapped_column(default=0, server_default="0")  # microblog
    following_count: so.Mapped[int] = so.mapped_column(default=0, server_default="0")  # microblog

    def __repr__(self) -> str:
        return f"<User {self.username}>"

    # -- Registering and changing ------------------------------------------------------

    @classmethod
    def register(cls, *, password: str, **fields: Any) -> Self:
        """Return a new user with an id, not committed.

        Raises:
            AlreadyTakenError: nothing was stored; the session is rolled back.
        """
        user = cls(**fields)
        user.set_password(password)
        db.session.add(user)
        user._flush()
        return user

    def change(self, **fields: Any) -> None:
        """Set columns, without committing.

        Raises:
            AlreadyTakenError: nothing was changed; the session is rolled back.
        """
        for name, value in fields.items():
            setattr(self, name, value)
        self._flush()

    def _flush(self) -> None:
        # The unique index decides: looking first would leave a gap for a second
        # request with the same name.
        own = {User.username: self.username, User.email: self.email}
        own_id = self.id
        try:
            db.session.flush()
        except IntegrityError:
            db.session.rollback()
            for column, value in own.items():
                same = sa.select(User.id).where(sa.func.lower(column) == sa.func.lower(value))
                id = db.session.scalar(same)
                if id is not None and id != own_id:
                    raise AlreadyTakenError(column.key) from None
            raise

    # -- The password ------------------------------------------------------------------

    def set_password(self, password: str) -> None:
        """Set the password without checking the old one, and end all tokens of the user."""
        password_hash = passwords.hash_password(password)
        if self.id is not None:
            wait_for_writers(self.id)
        self.password_hash = password_hash
        self.password_changed_at = utc_now()
        self.token = self.token_expiration = None
        # Also a token that was made since this object was read.
        so.attributes.flag_modified(self, "token")
        so.attributes.flag_modified(self, "token_expiration")
        if self.id is not None:
            KnownSource.forget(self.id)
            AccessToken.revoke_all(self.id)

    def check_password(self, password: str) -> bool:
        return passwords.matches(self.password_hash, password)

    def change_password(self, password: str) -> None:
        """Set the password after the old one was checked, and end all tokens of the user.

        Raises:
            OutdatedError: nothing was changed.
        """
        password_hash = passwords.hash_password(password)
        wait_for_writers(self.id)
        ended = {"token": None, "token_expiration": None}
        self._update(password_hash=password_hash, password_changed_at=utc_now(), **ended)
        KnownSource.forget(self.id)
        AccessToken.revoke_all(self.id)

    def renew_password_hash(self, password: str) -> None:
        """Replace a hash with outdated parameters, given the right password.

        Raises:
            OutdatedError: nothing was changed.
        """
        self._update(password_hash=passwords.hash_password(password))

    # -- Finding -----------------------------------------------------------------------

    @staticmethod
    def page(page: int, per_page: int) -> Page:
        """Return a page of all active users by ascending id; one past the end is empty."""
        return Page.of(_ALL, page, per_page, Total.of("user"))

    @staticmethod
    def find(id: int) -> "User | None":
        """Return the active user with this id, or `None`."""
        user = db.session.get(User, id)
        return user if user is not None and user.deactivated_at is None else None

    @staticmethod
    def check_token(token: str) -> "User | None":
        """Return the active user whose live login token this is, or `None`."""
        if not tokens.is_valid(token, tokens.LOGIN_PREFIX):
            return None
        user = db.session.scalar(_CURRENT.where(_SEALED.in_(tokens.sealed_forms(token))))
        if user is None or not user.has_live_token:
            return None
        # `revoke_token` ends the token that was presented, whatever has replaced it.
        so.attributes.set_committed_value(user, "token", token)
        return user

    @staticmethod
    def lock_if_login_token(id: int, token: str) -> bool:
        """Like `lock_if`, with this login token."""
        return User.lock_if(id, _SEALED.in_(tokens.sealed_forms(token)))

    @staticmethod
    def lock_if_access_token(id: int, access_token_id: int) -> bool:
        """Like `lock_if`, with the access token of this id."""
        same = AccessToken.id == access_token_id
        return User.lock_if(id, sa.select(AccessToken.id).where(same).exists())

    # -- For commands ------------------------------------------------------------------

    @staticmethod
    def revoke_tokens(user_id: int | None = None) -> int:
        """End all tokens of one user, or of everybody; return how many, expired ones included."""
        login = sa.update(User).where(User.token.is_not(None))
        if user_id is not None:
            wait_for_writers(user_id)
            login = login.where(User.id == user_id)
        ended = rows_changed(login.values(token=None, token_expiration=None))
        return ended + AccessToken.revoke_all(user_id)

    @staticmethod
    def count_tokens_of_former_keys() -> int:
        """Return how many live login tokens are sealed under another key than `SECRET_KEY`."""
        live = sa.select(_SEALED).where(User.token.is_not(None), User.token_expiration > utc_now())
        rows = db.session.scalars(live.execution_options(yield_per=1000))
        return sum(not tokens.is_sealed_under_current_key(bytes(sealed)) for sealed in rows)

    # -- For others to see -------------------------------------------------------------

    def avatar(self, size: int) -> str:
        """Return the URL of the user's picture at Gravatar, `size` pixels wide.

        Whoever can guess the user's e-mail address can confirm it by this URL.
        """
        return avatar_url(self.email, size)


@lru_cache(1000)
def avatar_url(email: str, size: int) -> str:
    digest = hashlib.sha256(email.lower().encode()).hexdigest()
    return f"https://www.gravatar.com/avatar/{digest}?d=identicon&s={size}"


# Both unique without regard to case, which is also how they are looked up.
sa.Index("ix_user_username", sa.func.lower(User.username), unique=True)
sa.Index("ix_user_email", sa.func.lower(User.email), unique=True)
# Partial on PostgreSQL: a full unique index would make the column a key, and a new
# token would conflict with the KEY SHARE lock that every foreign key to the user takes.
sa.Index("ix_user_token", User.token, unique=True, postgresql_where=User.token.is_not(None))

Total.keep(User, "user")

# Built once: building a statement costs more than running it.
_ACTIVE = sa.select(User).where(User.is_active())
_CURRENT = _ACTIVE.execution_options(**PRIMARY)
_ALL = paged(_ACTIVE.order_by(User.id))
_SEALED = sa.type_coerce(User.token, sa.LargeBinary)
