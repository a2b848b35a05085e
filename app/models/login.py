"""How a user logs in: found by name or address, and given a login token."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.orm as so
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from flask import current_app

from app.clock import utc_now
from app.extensions import PRIMARY, Model, db, rows_changed
from app.models.columns import BigId, SealedToken, UTCDateTime
from app.models.errors import OutdatedError
from app.models.locks import wait_for_writers, write_as
from app.security import tokens

_TOKEN_COLUMNS = ("token", "token_expiration", "token_created")
# What ends a login token. Without a text no clock that is set back makes it valid again; the
# expiration lies before now, as in the tutorial, whatever the clock.
ENDED: dict[str, datetime | None] = {
    "token": None,
    "token_expiration": datetime(1970, 1, 1, tzinfo=UTC),
}
# Characters of an e-mail address before it is brought into its normal form, which has at most 254
# (RFC 5321). To parse 60,000 takes a sixth of a second.
LONGEST_ADDRESS = 1000


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
    # When the password was last given for this token.
    logged_in_at: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # When it was first given for this token; renewals and log ins count from here.
    token_created: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # To the hour; a log in counts.
    token_last_used: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)
    # Of the client that has logged in last.
    token_address: so.Mapped[str | None] = so.mapped_column(sa.String(64))
    token_user_agent: so.Mapped[str | None] = so.mapped_column(sa.String(256))
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

        As in the tutorial, nothing is written before the session is flushed or committed:
        until then nobody waits. Of two at once, the one that commits last has the token that
        works; `log_in` is for requests.

        A token that lives less than two minutes is handed out again for half its life.
        One that cannot be renewed for `expires_in` any more (`LOGIN_MAX_AGE_DAYS`) is
        replaced: a thief who has it is out then.

        Args:
            expires_in: lifetime of a new token, in seconds.
        """
        now = utc_now()
        db.session.add(self)
        if sa.inspect(self).persistent and not db.session.is_modified(self):
            with db.session.no_autoflush:
                db.session.refresh(self, _TOKEN_COLUMNS)
        former = self.logged_in_at
        self.last_seen = self.logged_in_at = self.token_last_used = now
        return self._hand_out_token(now, expires_in, former)

    def log_in(self, expires_in: int) -> str:
        """Like `get_token`, with the row locked until the commit.

        Of two log ins at once the second waits for the first, and gets its token.

        Args:
            expires_in: lifetime of a new token, in seconds.

        Raises:
            OutdatedError: the user was deactivated, or has a new password.
        """
        now, former = utc_now(), self.logged_in_at
        # What is read now can be neither replaced nor revoked meanwhile.
        self._update(last_seen=now, logged_in_at=now, token_last_used=now)
        return self._hand_out_token(now, expires_in, former)

    def _hand_out_token(self, now: datetime, expires_in: int, former: datetime | None) -> str:
        """Return the present token or a new one; `former` is when the user last logged in."""
        lifetime = timedelta(seconds=expires_in)
        shared_until = now + min(timedelta(seconds=60), lifetime / 2)
        # One of the tutorial that lives longer than an hour; backups have its text.
        is_old = self.token_created is None and tokens.is_of_tutorial(self.token or "")
        is_live = self.token_expiration is not None and self.token_expiration > shared_until
        if self.token and is_live and not is_old:
            max_age = timedelta(days=current_app.config["LOGIN_MAX_AGE_DAYS"])
            # A token of an old database does not say when it was created.
            created = self.token_created = self.token_created or former or now
            if created + max_age > now + min(lifetime, max_age / 2):
                if current_app.config["SECRET_KEY_FALLBACKS"]:  # perhaps it is sealed under one
                    so.attributes.flag_modified(self, "token")
                return self.token
        self.token = tokens.make()
        self.token_created, self.token_expiration = now, now + lifetime
        return self.token

    def note_log_in(self) -> None:
        """Note that the user has just logged in, and lock the row until the commit.

        Raises:
            OutdatedError: as in `log_in`.
        """
        self._update(last_seen=utc_now())

    def renew_token(self, expires_in: int, max_age: timedelta) -> bool:
        """Extend the token by which this user was found; its text stays the same.

        Return whether it does: not if it was ended meanwhile, if its first log in is older
        than `max_age`, or if it is one of the tutorial: backups of its database have the text.
        A token sealed under a former key is sealed anew.

        Args:
            expires_in: seconds from now; an expiry later than that stays.
            max_age: of the first log in with this token; a renewal never reaches beyond.
        """
        created = self.token_created or self.logged_in_at
        if created is None or self.token is None or self.token_expiration is None:
            return False
        if tokens.is_of_tutorial(self.token):
            return False
        expiration = renewed_expiration(created, self.token_expiration, expires_in, max_age)
        if expiration is None:
            return False
        row = type(self)
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

        A token that has replaced it meanwhile stays valid.
        """
        db.session.flush()  # a token of `get_token` may not be written yet
        wait_for_writers(self.id)
        row = type(self)
        statement = sa.update(row).where(row.id == self.id)
        if self.token is not None:
            statement = statement.where(row.token.in_(tokens.sealed_forms(self.token)))
        db.session.execute(statement.values(ENDED))
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
        write_as(id)
        query = sa.select(cls.id).where(cls.id == id, cls.is_active(), *criteria)
        return db.session.connection().scalar(query) is not None

    def lock(self) -> None:
        """Lock the row against changes until the commit.

        Raises:
            OutdatedError: as in `_update`.
        """
        write_as(self.id)
        query = sa.select(type(self).id).where(*self._is_up_to_date())
        query = query.with_for_update(key_share=True)
        if db.session.connection().scalar(query) is None:
            db.session.rollback()
            raise OutdatedError

    def _update(self, *criteria: sa.ColumnElement[bool], **values: Any) -> None:
        """Set columns of the row, and lock it until the commit (on SQLite, the database).

        Raises:
            OutdatedError: the user was deactivated, or has another password than
                when this object was read, or does not meet the criteria; the session is
                rolled back.
        """
        row = type(self)
        update = sa.update(row).where(*self._is_up_to_date(), *criteria).values(values)
        names = [*values, *_TOKEN_COLUMNS]
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


def renewed_expiration(
    created: datetime, expiration: datetime, expires_in: int, max_age: timedelta
) -> datetime | None:
    """Return when a renewed token expires; `None` if it cannot be renewed any more.

    Args:
        created: when its first log in was.
        expiration: when it would expire.
        expires_in: seconds from now.
        max_age: of the log in.
    """
    now = utc_now()
    end = created + max_age
    if end <= now:
        return None
    return max(expiration, min(now + timedelta(seconds=expires_in), end))


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
            other than ASCII characters before the @, or is at a local host without
            `EMAIL_ALLOW_LOCAL`.
    """
    if len(text) > LONGEST_ADDRESS:
        raise EmailNotValidError
    suffix = ""
    if current_app.config["EMAIL_ALLOW_LOCAL"] and _is_local(text):
        suffix = ".example"  # the validator knows no local hosts
    address = validate_email(text + suffix, check_deliverability=False, allow_smtputf8=False)
    return address.normalized.removesuffix(suffix)


def _is_local(address: str) -> bool:
    """Return whether its host has no dot, or is reserved (RFC 6761), and is ASCII."""
    host = address.rpartition("@")[2].lower()
    is_reserved = host.rpartition(".")[2] in SPECIAL_USE_DOMAIN_NAMES
    return host.isascii() and ("." not in host or is_reserved)
