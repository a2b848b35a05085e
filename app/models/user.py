"""A user: their name, their password, and the one login token their devices share."""

import hashlib
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.orm as so
from email_validator import EmailNotValidError, validate_email
from sqlalchemy.exc import IntegrityError

from app import passwords, tokens
from app.columns import BigId, SealedToken, UTCDateTime, sealed_forms, utc_now
from app.extensions import Model, db
from app.models.page import Page, paged
from app.models.total import Total


def normal_email(text: str) -> str:
    """The one form of an e-mail address that is stored and looked up.

    Raises:
        EmailNotValidError: of `email_validator`; `text` is no address, or one
            with other than ASCII characters before the @.
    """
    return validate_email(text, check_deliverability=False, allow_smtputf8=False).normalized


class AlreadyTakenError(Exception):
    """Somebody else has this user name or e-mail address.

    Attributes:
        field: `"username"` or `"email"`.
    """

    def __init__(self, field: str) -> None:
        super().__init__(f"the {field} is already taken")
        self.field = field


class User(Model):
    id: so.Mapped[int] = so.mapped_column(BigId, primary_key=True)
    username: so.Mapped[str] = so.mapped_column(sa.String(64))
    email: so.Mapped[str] = so.mapped_column(sa.String(254))  # longest address, RFC 5321
    password_hash: so.Mapped[str | None] = so.mapped_column(sa.String(256))
    about_me: so.Mapped[str | None] = so.mapped_column(sa.String(140))
    # When the user registered or, later, last asked for a token.
    last_seen: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime, default=utc_now)
    # Deferred: reading it means decrypting it, and only a log in has to.
    token: so.Mapped[str | None] = so.mapped_column(SealedToken, deferred=True)
    token_expiration: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
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
                user = db.session.scalar(_BY[field], {"value": value})
                if user is not None and user.id != own_id:
                    raise AlreadyTakenError(field) from None
            raise

    @staticmethod
    def page(page: int, per_page: int) -> Page:
        """A page of all users by ascending id; one past the end is empty."""
        return Page.of(_ALL, page, per_page, Total.of("user"))

    # -- Logging in with a password ----------------------------------------------------

    @staticmethod
    def check_credentials(login: str, password: str) -> "User | None":
        """The user with this user name or e-mail address, if the password is theirs.

        A login that does not exist takes the time of a wrong password. Empty
        ones are no credentials: HTTP libraries give them where there were none.
        """
        if not login or not password:
            return None
        user = User.find_by_login(login)
        password_hash = user.password_hash if user is not None else None
        return user if passwords.verify_password(password_hash, password) else None

    @staticmethod
    def find_by_login(login: str) -> "User | None":
        """The user with this user name or e-mail address, in any case; `None` if there is none."""
        if "\0" in login:  # PostgreSQL has no such text and says so with an error
            return None
        if "@" in login:
            email = login
            with suppress(EmailNotValidError):  # an older database may hold others
                email = normal_email(login)
            user = db.session.scalar(_BY["email"], {"value": email})
            if user is not None:
                return user
        return db.session.scalar(_BY["username"], {"value": login})

    def set_password(self, password: str) -> None:
        self.password_hash = passwords.hash_password(password)

    def check_password(self, password: str) -> bool:
        return passwords.verify_password(self.password_hash, password)

    def renew_password_hash(self, password: str) -> None:
        """Replaces a hash made in another way than new ones are, given the right password."""
        if self.password_hash is None or passwords.needs_rehash(self.password_hash):
            self.set_password(password)

    # -- The login token ---------------------------------------------------------------

    def get_token(self, expires_in: int = 3600) -> str:
        """The user's token: the live one if more than 60 s remain of it, else a new one.

        Whoever commits first decides: of two log ins at once, the second waits
        and is handed the first one's token.

        Args:
            expires_in: lifetime of a new token, in seconds.
        """
        now = utc_now()
        db.session.add(self)
        db.session.flush()
        # This UPDATE locks the row until the commit (on SQLite, the database):
        # what is read next can be neither replaced nor revoked meanwhile.
        db.session.execute(sa.update(User).where(User.id == self.id).values(last_seen=now))
        db.session.refresh(self, ["last_seen", "token", "token_expiration"])
        # A token that lives for less than two minutes is shared for half its life.
        shared_until = now + min(timedelta(seconds=60), timedelta(seconds=expires_in) / 2)
        if self.token and self.token_expiration and self.token_expiration > shared_until:
            return self.token
        self.token = tokens.make()
        self.token_expiration = now + timedelta(seconds=expires_in)
        return self.token

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
        if not tokens.is_token(token):
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

    @property
    def has_live_token(self) -> bool:
        return self.token_expiration is not None and self.token_expiration > utc_now()

    @property
    def token_seconds_left(self) -> int:
        """What remains of the token, to the nearest second; 0 without one."""
        if self.token_expiration is None:
            return 0
        return max(0, round((self.token_expiration - utc_now()).total_seconds()))

    def revoke_token(self) -> None:
        """Ends the token this user was found by, or else the one they have.

        A token that has taken its place meanwhile lives on. The columns are
        emptied, so that no clock that steps back can revive the token.
        """
        statement = sa.update(User).where(User.id == self.id)
        if self.token is not None:
            statement = statement.where(User.token.in_(sealed_forms(self.token)))
        db.session.execute(statement.values(token=None, token_expiration=None))
        db.session.expire(self, ["token", "token_expiration"])

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
_ALL = paged(sa.select(User).order_by(User.id))
_BY = {
    "username": sa.select(User).where(sa.func.lower(User.username) == _TEXT),
    "email": sa.select(User).where(sa.func.lower(User.email) == _TEXT),
    "token": sa.select(User).where(User.token == sa.bindparam("value")),
    "tokens": sa.select(User).where(User.token.in_(sa.bindparam("values", expanding=True))),
}
