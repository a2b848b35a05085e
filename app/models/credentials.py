"""What opens an account: the user's password, and the one login token their devices share."""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so
from flask import current_app

from app import passwords, tokens
from app.columns import BigId, SealedToken, UTCDateTime, sealed_forms, utc_now
from app.extensions import Model, db, rows_changed
from app.models.access_token import AccessToken
from app.models.errors import AlreadyTakenError, OutdatedError, TooManyError
from app.models.known_source import KnownSource


class Credentials(Model):
    """The half of `User` that knows secrets."""

    __abstract__ = True

    id: so.Mapped[int] = so.mapped_column(BigId, primary_key=True)
    password_hash: so.Mapped[str | None] = so.mapped_column(sa.String(256))
    # Not when the same password was only hashed anew.
    password_changed_at: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # Since when the user is gone from every route; `None` for everybody else.
    deactivated_at: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # Deferred: reading it means decrypting it, and only a log in has to.
    token: so.Mapped[str | None] = so.mapped_column(SealedToken, deferred=True)
    token_expiration: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # When the password was last given for a token, which is not renewed for ever.
    logged_in_at: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)

    # -- The password ------------------------------------------------------------------

    def set_password(self, password: str) -> None:
        """Gives the user this password, whatever the old one was, and ends their tokens."""
        self.password_hash = passwords.hash_password(password)
        self.password_changed_at = utc_now()
        self.token = self.token_expiration = None
        # Also a token that was made since this object was read.
        so.attributes.flag_modified(self, "token")
        so.attributes.flag_modified(self, "token_expiration")
        if self.id is not None:
            KnownSource.forget(self.id)
            AccessToken.revoke_all_of(self.id)

    def check_password(self, password: str) -> bool:
        return passwords.verify_password(self.password_hash, password)

    def change_password(self, password: str) -> None:
        """Gives the user, whose old password was right, this one, and ends their tokens.

        Raises:
            OutdatedError: nothing was changed.
        """
        new = passwords.hash_password(password)
        ended = {"token": None, "token_expiration": None}
        self._update(password_hash=new, password_changed_at=utc_now(), **ended)
        KnownSource.forget(self.id)
        AccessToken.revoke_all_of(self.id)

    def renew_password_hash(self, password: str) -> None:
        """Replaces a hash made in another way than new ones are, given the right password.

        Raises:
            OutdatedError: nothing was changed.
        """
        if self.password_hash is not None and passwords.needs_rehash(self.password_hash):
            self._update(password_hash=passwords.hash_password(password))

    def _update(self, **values: Any) -> None:
        """Sets columns of the row, and locks it until the commit (on SQLite, the database).

        Raises:
            OutdatedError: the session is rolled back. Who has given the old
                password gets no token once there is a new one.
        """
        row = type(self)
        statement = sa.update(row).where(
            row.id == self.id,
            row.deactivated_at.is_(None),
            row.password_changed_at.is_not_distinct_from(self.password_changed_at),
        )
        if not rows_changed(statement.values(values).execution_options(synchronize_session=False)):
            db.session.rollback()
            raise OutdatedError
        db.session.refresh(self, [*values, "token", "token_expiration"])

    def lock(self) -> None:
        """Lets nobody else change the user, or their tokens, until the commit.

        Raises:
            OutdatedError: as in `change_password`.
        """
        self._update(last_seen=utc_now())

    # -- The login token ---------------------------------------------------------------

    def get_token(self, expires_in: int = 3600) -> str:
        """The user's token: the live one if more than 60 s remain of it, else a new one.

        Whoever commits first decides: of two log ins at once, the second waits
        and is handed the first one's token.

        Args:
            expires_in: lifetime of a new token, in seconds.

        Raises:
            OutdatedError: there is none.
        """
        now = utc_now()
        db.session.add(self)
        db.session.flush()
        # Locked by this, what is read can be neither replaced nor revoked meanwhile.
        self._update(last_seen=now, logged_in_at=now)
        # A token that lives for less than two minutes is shared for half its life.
        shared_until = now + min(timedelta(seconds=60), timedelta(seconds=expires_in) / 2)
        if self.token and self.token_expiration and self.token_expiration > shared_until:
            return self.token
        self.token = tokens.make()
        self.token_expiration = now + timedelta(seconds=expires_in)
        return self.token

    def renew_token(self, expires_in: int, max_age: timedelta) -> bool:
        """Lets the token this user was found by live on, under the same text.

        Whether it does: it has not ended meanwhile, and the password was given
        less than `max_age` ago, beyond which no renewal goes.

        Args:
            expires_in: seconds from now, unless it lives for longer already.
            max_age: of the log in.
        """
        if self.logged_in_at is None or self.token is None or self.token_expiration is None:
            return False
        now = utc_now()
        end = self.logged_in_at + max_age
        if end <= now:
            return False
        row = type(self)
        expiration = max(self.token_expiration, min(now + timedelta(seconds=expires_in), end))
        statement = sa.update(row).where(row.id == self.id).values(token_expiration=expiration)
        statement = statement.where(row.token.in_(sealed_forms(self.token)))
        statement = statement.execution_options(synchronize_session=False)
        so.attributes.set_committed_value(self, "token_expiration", expiration)
        return rows_changed(statement) == 1

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
        row = type(self)
        statement = sa.update(row).where(row.id == self.id)
        if self.token is not None:
            statement = statement.where(row.token.in_(sealed_forms(self.token)))
        db.session.execute(statement.values(token=None, token_expiration=None))
        db.session.expire(self, ["token", "token_expiration"])

    @classmethod
    def revoke_tokens(cls, user_id: int | None = None) -> int:
        """Ends the tokens of one user, or everybody's; how many, expired ones included."""
        login = sa.update(cls).where(cls.token.is_not(None))
        access = sa.delete(AccessToken)
        if user_id is not None:
            login = login.where(cls.id == user_id)
            access = access.where(AccessToken.user_id == user_id)
        return rows_changed(login.values(token=None, token_expiration=None)) + rows_changed(access)

    @classmethod
    def count_tokens_of_former_keys(cls) -> int:
        """How many live tokens are sealed under another key than `SECRET_KEY`."""
        sealed = sa.type_coerce(cls.token, sa.LargeBinary)
        live = sa.select(sealed).where(cls.token.is_not(None), cls.token_expiration > utc_now())
        key = [current_app.config["SECRET_KEY"]]
        rows = db.session.scalars(live.execution_options(yield_per=1000))
        return sum(tokens.unseal(bytes(row), key) is None for row in rows)

    # -- Access tokens -----------------------------------------------------------------

    def create_access_token(self, name: str, scope: str, expires_in: int, most: int) -> AccessToken:
        """A new access token, with the `text` that cannot be had again; not committed.

        Args:
            name: of the user's choice.
            scope: some of `SCOPES`, separated by spaces.
            expires_in: lifetime in seconds.
            most: how many live ones the user may have.

        Raises:
            AlreadyTakenError: another live token of the user has the name.
            TooManyError: the user has `most` of them.
            OutdatedError: the user has a new password, or was deactivated.
        """
        self.lock()
        AccessToken.forget_expired_of(self.id)
        names = AccessToken.live_names(self.id)
        if name in names:
            raise AlreadyTakenError("name")
        if len(names) >= most:
            raise TooManyError
        now = utc_now()
        text = tokens.make(tokens.ACCESS_PREFIX)
        access_token = AccessToken(
            user_id=self.id,
            name=name,
            scope=scope,
            digest=tokens.digest(text),
            token_expiration=now + timedelta(seconds=expires_in),
            created=now,
        )
        access_token.text = text
        db.session.add(access_token)
        db.session.flush()
        return access_token
