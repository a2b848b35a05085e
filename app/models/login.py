"""How a user logs in: found by name or address, and given a login token."""

import re
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.orm as so
from email_validator import EmailNotValidError, validate_email
from flask import current_app

from app.clock import utc_now
from app.extensions import PRIMARY, Model, db, rows_changed
from app.models.columns import BigId, SealedToken, UTCDateTime
from app.models.errors import OutdatedError
from app.security import tokens


class HasLogin(Model):
    """The half of `User` that logs in, and the locks of its row."""

    __abstract__ = True

    id: so.Mapped[int] = so.mapped_column(BigId, primary_key=True)
    username: so.Mapped[str] = so.mapped_column(sa.String(64))
    email: so.Mapped[str] = so.mapped_column(sa.String(254))  # longest address, RFC 5321
    password_hash: so.Mapped[str | None] = so.mapped_column(sa.String(256))
    # Unchanged where the same password was only hashed anew.
    password_changed_at: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # `None` for an active user.
    deactivated_at: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # Deferred: only a log in has to decrypt it.
    token: so.Mapped[str | None] = so.mapped_column(SealedToken, deferred=True)
    token_expiration: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # When the password was last given for a token.
    logged_in_at: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # When the user registered or, later, last logged in.
    last_seen: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime, default=utc_now)

    @classmethod
    def find_by_login(cls, login: str, *, also_deactivated: bool = False) -> Self | None:
        """Return the user with this user name or e-mail address, in any case, or `None`."""
        if re.search("[\0\ud800-\udfff]", login):
            return None  # the database would refuse the text with an error
        users = sa.select(cls) if also_deactivated else sa.select(cls).where(cls.is_active())
        users = users.execution_options(**PRIMARY)  # for the password hash
        value = sa.func.lower(normal_login(login))
        # Always both: the time must not tell whether there is such an address.
        by_email = None
        if "@" in login:
            by_email = db.session.scalar(users.where(sa.func.lower(cls.email) == value))
        by_username = db.session.scalar(users.where(sa.func.lower(cls.username) == value))
        return by_email or by_username

    @classmethod
    def is_active(cls) -> sa.ColumnElement[bool]:
        return cls.deactivated_at.is_(None)

    # -- The login token ---------------------------------------------------------------

    def get_token(self, expires_in: int = 3600) -> str:
        """Return the live token if more than 60 s remain of it, else a new one.

        Of two log ins at once the second waits for the first, and gets its token.
        A token that lives less than two minutes is handed out again for half its life.

        Args:
            expires_in: lifetime of a new token, in seconds.

        Raises:
            OutdatedError: the user was deactivated, or has a new password.
        """
        now = utc_now()
        db.session.add(self)
        db.session.flush()
        # Locks the row: what is read now can be neither replaced nor revoked meanwhile.
        self._update(last_seen=now, logged_in_at=now)
        shared_until = now + min(timedelta(seconds=60), timedelta(seconds=expires_in) / 2)
        if self.token and self.token_expiration and self.token_expiration > shared_until:
            if current_app.config["SECRET_KEY_FALLBACKS"]:  # perhaps it is sealed under one
                so.attributes.flag_modified(self, "token")
            return self.token
        self.token = tokens.make()
        self.token_expiration = now + timedelta(seconds=expires_in)
        return self.token

    def renew_token(self, expires_in: int, max_age: timedelta) -> bool:
        """Extend the token by which this user was found; its text stays the same.

        Return whether it does: not if it was ended meanwhile, or if the log in is
        older than `max_age`. A token sealed under a former key is sealed anew.

        Args:
            expires_in: seconds from now; an expiry later than that stays.
            max_age: of the log in; a renewal never reaches beyond.
        """
        if self.logged_in_at is None or self.token is None or self.token_expiration is None:
            return False
        now = utc_now()
        end = self.logged_in_at + max_age
        if end <= now:
            return False
        row = type(self)
        expiration = max(self.token_expiration, min(now + timedelta(seconds=expires_in), end))
        statement = (
            sa.update(row)
            .where(row.id == self.id, row.token.in_(tokens.sealed_forms(self.token)))
            .values(token=self.token, token_expiration=expiration)
            .execution_options(synchronize_session=False)
        )
        so.attributes.set_committed_value(self, "token_expiration", expiration)
        return rows_changed(statement) == 1

    def revoke_token(self) -> None:
        """End the token by which this user was found, or else their current login token.

        A token that has replaced it meanwhile stays valid. Both columns are emptied,
        so that no clock that is set back makes the token valid again.
        """
        wait_for_writers(self.id)
        row = type(self)
        statement = sa.update(row).where(row.id == self.id)
        if self.token is not None:
            statement = statement.where(row.token.in_(tokens.sealed_forms(self.token)))
        db.session.execute(statement.values(token=None, token_expiration=None))
        db.session.expire(self, ["token", "token_expiration"])

    @property
    def has_live_token(self) -> bool:
        return self.token_expiration is not None and self.token_expiration > utc_now()

    @property
    def token_seconds_left(self) -> int:
        """Seconds until the token expires, rounded; 0 without one."""
        if self.token_expiration is None:
            return 0
        return max(0, round((self.token_expiration - utc_now()).total_seconds()))

    # -- Locks -------------------------------------------------------------------------

    @classmethod
    def lock_if_password(cls, id: int, changed_at: datetime | None) -> bool:
        """Like `lock_if`, with the password that was set at this time (`password_changed_at`)."""
        return cls.lock_if(id, cls.password_changed_at.is_not_distinct_from(changed_at))

    @classmethod
    def lock_if(cls, id: int, *criteria: sa.ColumnElement[bool]) -> bool:
        """Return whether the user is active and meets the criteria.

        If so, `wait_for_writers` of other transactions waits for the end of this one.
        """
        _hold(id, shared=True)
        query = sa.select(cls.id).where(cls.id == id, cls.is_active(), *criteria)
        return db.session.connection().scalar(query) is not None

    def lock(self) -> None:
        """Lock the row against changes until the commit.

        Raises:
            OutdatedError: as in `_update`.
        """
        _hold(self.id, shared=True)
        query = sa.select(type(self).id).where(*self._is_up_to_date())
        query = query.with_for_update(key_share=True)
        if db.session.connection().scalar(query) is None:
            db.session.rollback()
            raise OutdatedError

    def _update(self, **values: Any) -> None:
        """Set columns of the row, and lock it until the commit (on SQLite, the database).

        Raises:
            OutdatedError: the user was deactivated, or has another password than
                when this object was read; the session is rolled back.
        """
        row = type(self)
        update = sa.update(row).where(*self._is_up_to_date()).values(values)
        names = [*values, "token", "token_expiration"]
        columns = [getattr(row, name) for name in dict.fromkeys(names)]
        options = {"synchronize_session": False}
        new = db.session.execute(update.returning(*columns), execution_options=options).first()
        if new is None:
            db.session.rollback()
            raise OutdatedError
        for column, value in zip(columns, new, strict=True):
            so.attributes.set_committed_value(self, column.key, value)

    def _is_up_to_date(self) -> tuple[sa.ColumnElement[bool], ...]:
        row = type(self)
        same_password = row.password_changed_at.is_not_distinct_from(self.password_changed_at)
        return row.id == self.id, row.is_active(), same_password


def wait_for_writers(user_id: int) -> None:
    """Wait for all transactions that write as this user; keep later ones waiting.

    Until the commit. Whatever takes away the rights of a user calls it first.
    """
    _hold(user_id, shared=False)


def _hold(user_id: int, *, shared: bool) -> None:
    """Take a lock of the user until the commit.

    An advisory lock and no lock of the row: those are not granted in the order in
    which they are asked for, so that a stream of writers could keep out the owner who
    changes the password. SQLite has one writer at a time.
    """
    # Not through the session: its writes trigger a check, which comes here.
    connection = db.session.connection()
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    name = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    # Negative keys, as the migrations and other programs use positive ones.
    connection.execute(sa.text(f"SELECT {name}(:key)"), {"key": -user_id})


def normal_login(login: str) -> str:
    """Return a login as it is looked up: an address in its normal form, a user name as it is."""
    if "@" in login:
        with suppress(EmailNotValidError):  # an imported database may hold others
            return normal_email(login)
    return login


def normal_email(text: str) -> str:
    """Return the one form of an e-mail address that is stored and looked up.

    Raises:
        EmailNotValidError: of `email_validator`; `text` is not an address, or has
            other than ASCII characters before the @.
    """
    return validate_email(text, check_deliverability=False, allow_smtputf8=False).normalized
