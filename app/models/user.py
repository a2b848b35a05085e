"""A user: registering, changing, finding, and the password; `HasLogin` has the login token."""

import hashlib
from datetime import datetime
from functools import lru_cache
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.orm as so
from sqlalchemy.exc import IntegrityError

from app.clock import utc_now
from app.extensions import PRIMARY, db, rows_changed
from app.models.access_token import AccessToken
from app.models.columns import UTCDateTime, WordList
from app.models.device_session import DeviceSession
from app.models.errors import AlreadyTakenError
from app.models.known_source import KnownSource
from app.models.locks import wait_for_all_writers, wait_for_writers
from app.models.login import ENDED, HasLogin
from app.models.page import Page, paged
from app.models.reserved_name import ReservedName
from app.models.stored_token import StoredToken, note_use
from app.models.total import Total
from app.security import passwords, tokens


class User(HasLogin):
    about_me: so.Mapped[str | None] = so.mapped_column(sa.String(140))
    # The address that was confirmed last; `email` is verified where it is the same.
    verified_email: so.Mapped[str | None] = so.mapped_column(sa.String(254))
    # Replaces `email` when it is confirmed; `None` if there is none.
    new_email: so.Mapped[str | None] = so.mapped_column(sa.String(254))
    # When an address was confirmed, wished for or given up by a request: a link that was used
    # stays so if the address returns.
    email_changed_at: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # Changed by `grant_role` and `revoke_role` alone.
    roles: so.Mapped[list[str]] = so.mapped_column(WordList(512), default=list, server_default="")
    # Kept by `Post` and `Follow` with each change: a page of users counts nothing.  # microblog
    # After changes by SQL: `recount`.  # microblog
    post_count: so.Mapped[int] = so.mapped_column(default=0, server_default="0")  # microblog
    follower_count: so.Mapped[int] = so.mapped_column(default=0, server_default="0")  # microblog
    # `user.following_count()` is a method, as in the tutorial.  # microblog
    followed_count: so.Mapped[int] = so.mapped_column(  # microblog
        "following_count",  # microblog
        default=0,  # microblog
        server_default="0",  # microblog
    )  # microblog

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
        user._refuse_reserved_name()
        return user

    def change(self, **fields: Any) -> None:
        """Set columns, without committing.

        Raises:
            AlreadyTakenError: nothing was changed; the session is rolled back.
            OutdatedError: likewise.
        """
        former = self.username
        if fields.get("username", former) != former:
            self.lock()  # another request may just have changed the name
            query = sa.select(User.username).where(User.id == self.id)
            former = db.session.connection().scalar(query) or former
        for name, value in fields.items():
            setattr(self, name, value)
        self._flush()
        if self.username.lower() != former.lower():
            self._refuse_reserved_name()
            ReservedName.replace(self.id, former, self.username)

    def _flush(self) -> None:
        # The unique index decides: looking first would leave a gap for a second
        # request with the same name.
        username, email, own_id = self.username, self.email, self.id
        try:
            db.session.flush()
        except IntegrityError:
            db.session.rollback()
            for field in User.taken(username, email, but_by=own_id):
                raise AlreadyTakenError(field) from None
            raise

    @staticmethod
    def taken(username: str, email: str, but_by: int | None = None) -> list[str]:
        """Return which of the two another user has: `"username"`, `"email"`.

        For a good answer: where it counts, the unique indexes decide.

        Args:
            username: in any case; a reserved one is not looked for.
            email: likewise.
            but_by: id of the user who may have them.
        """
        wanted = {"username": (User.username, username), "email": (User.email, email)}
        found = []
        for field, (column, value) in wanted.items():
            same = sa.func.lower(column) == sa.func.lower(value)
            id = db.session.scalar(sa.select(User.id).where(same))
            if id is not None and id != but_by:
                found.append(field)
        return found

    def _refuse_reserved_name(self) -> None:
        if ReservedName.is_kept_from(self.id, self.username):
            db.session.rollback()
            raise AlreadyTakenError("username")

    # -- The password ------------------------------------------------------------------

    def set_password(self, password: str) -> None:
        """Set the password without checking the old one, and end all tokens of the user."""
        password_hash = passwords.hash_password(password)
        if self.id is not None:
            wait_for_writers(self.id)
        self.password_hash = password_hash
        self.password_changed_at = utc_now()
        for name, value in ENDED.items():
            setattr(self, name, value)
        self.new_email = None  # a thief may have asked for it
        # Also what has come since this object was read: a token, an address.
        for name in (*ENDED, "new_email"):
            so.attributes.flag_modified(self, name)
        if self.id is not None:
            KnownSource.forget(self.id)
            revoke_rows(self.id)

    def check_password(self, password: str) -> bool:
        return passwords.find_match(self.password_hash, [password]) is not None

    def change_password(self, password: str, *criteria: sa.ColumnElement[bool]) -> None:
        """Set the password after the old one was checked, and end all tokens of the user.

        Raises:
            OutdatedError: nothing was changed; as in `_update`.
        """
        password_hash = passwords.hash_password(password)
        wait_for_writers(self.id)
        values = {"password_hash": password_hash, "password_changed_at": utc_now()}
        self._update(*criteria, **values, **ENDED, new_email=None)
        KnownSource.forget(self.id)
        revoke_rows(self.id)

    def reset_password(self, password: str) -> None:
        """Set the password of a user who has used a link that was mailed to `self.email`.

        Raises:
            OutdatedError: nothing was changed; also if another address was given since this
                object was read.
        """
        self.change_password(
            password,
            User.email == self.email,
            User.email_changed_at.is_not_distinct_from(self.email_changed_at),
        )

    def renew_password_hash(self, password: str) -> None:
        """Replace a hash with outdated parameters, given the right password.

        Raises:
            OutdatedError: nothing was changed.
        """
        self._update(password_hash=passwords.hash_password(password))

    @property
    def has_verified_email(self) -> bool:
        return self.verified_email == self.email

    # -- Finding -----------------------------------------------------------------------

    @staticmethod
    def page(page: int, per_page: int) -> Page:
        """Return a page of all active users by ascending id; one past the end is empty."""
        return Page.of(_ALL, page, per_page, Total.of("user"))

    @staticmethod
    def find(id: int, *, also_deactivated: bool = False) -> "User | None":
        """Return the active user with this id, or `None`."""
        user = db.session.get(User, id)
        return user if user is not None and (also_deactivated or not user.deactivated_at) else None

    @staticmethod
    def check_token(token: str) -> "User | None":
        """Return the active user whose live login token this is, or `None`."""
        if not tokens.may_be_login_token(token):
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
    def lock_if_stored_token(id: int, model: type[StoredToken], digest: bytes) -> bool:
        """Like `lock_if`, with the token that has this text: its id may have another by now."""
        return User.lock_if(id, sa.select(model.id).where(model.digest == digest).exists())

    @staticmethod
    def note_token_use(id: int) -> None:
        """Set `token_last_used` and commit. Fails at once where the row is locked."""
        note_use(sa.update(User).where(User.id == id).values(token_last_used=utc_now()))

    # -- For commands ------------------------------------------------------------------

    @staticmethod
    def revoke_tokens(user_id: int | None = None) -> int:
        """End all tokens of one user, or of everybody; return how many, expired ones included."""
        login = sa.update(User).where(User.token.is_not(None))
        if user_id is None:
            wait_for_all_writers()
        else:
            wait_for_writers(user_id)
            login = login.where(User.id == user_id)
        ended = rows_changed(login.values(ENDED))
        return ended + revoke_rows(user_id)

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


def revoke_rows(user_id: int | None = None) -> int:
    """Delete the stored tokens of one user, or of everybody; return how many."""
    return sum(model.revoke_all(user_id) for model in (AccessToken, DeviceSession))


@lru_cache(1000)
def avatar_url(email: str, size: int) -> str:
    digest = hashlib.sha256(email.lower().encode()).hexdigest()
    return f"https://www.gravatar.com/avatar/{digest}?d=identicon&s={size}"


# Both unique without regard to case, which is also how they are looked up. On PostgreSQL
# `text_pattern_ops` lets them find the beginning of a name, in every language of a database.
sa.Index(
    "ix_user_username",
    sa.func.lower(User.username).label("lower_username"),
    unique=True,
    postgresql_ops={"lower_username": "text_pattern_ops"},
)
sa.Index(
    "ix_user_email",
    sa.func.lower(User.email).label("lower_email"),
    unique=True,
    postgresql_ops={"lower_email": "text_pattern_ops"},
)
# To count those who are deactivated.
_DEACTIVATED = User.deactivated_at.is_not(None)
sa.Index(
    "ix_user_deactivated_at",
    User.deactivated_at,
    postgresql_where=_DEACTIVATED,
    sqlite_where=_DEACTIVATED,
)
# Partial on PostgreSQL: a full unique index would make the column a key, and a new
# token would conflict with the KEY SHARE lock that every foreign key to the user takes.
sa.Index("ix_user_token", User.token, unique=True, postgresql_where=User.token.is_not(None))

Total.keep(User, "user")

# Built once: building a statement costs more than running it.
_ACTIVE = sa.select(User).where(User.is_active())
_CURRENT = _ACTIVE.execution_options(**PRIMARY)
_ALL = paged(_ACTIVE.order_by(User.id))
_SEALED = sa.type_coerce(User.token, sa.LargeBinary)
