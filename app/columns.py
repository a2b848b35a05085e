"""Column types: a time in UTC, a sealed token."""

from datetime import UTC, datetime

import sqlalchemy as sa
from flask import current_app

from app import tokens


def utc_now() -> datetime:
    """The one place that reads the clock."""
    return datetime.now(UTC)


# SQLite numbers the rows of a table by itself only where the type says INTEGER,
# and gives those 64 bits too.
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class UTCDateTime(sa.types.TypeDecorator[datetime]):
    """An aware `datetime` in UTC; SQLite, which knows no zones, stores it without one."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self,
        value: datetime | None,
        dialect: sa.Dialect,
    ) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(
        self,
        value: datetime | None,
        dialect: sa.Dialect,
    ) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class SealedToken(sa.types.TypeDecorator[str]):
    """The text of a token, sealed under `SECRET_KEY` (`tokens.seal`).

    Comparing with a text (`User.token == token`) compares with its sealed form
    under the current key; bytes are taken as sealed already, which is how a
    token of a former key is found (`sealed_forms`). Reads as `None` where no
    key of the configuration fits.
    """

    impl = sa.LargeBinary(56)
    cache_ok = True

    def process_bind_param(
        self,
        value: str | bytes | None,
        dialect: sa.Dialect,
    ) -> bytes | None:
        if isinstance(value, str):
            return tokens.seal(value, current_app.config["SECRET_KEY"])
        return value

    def process_result_value(
        self,
        value: bytes | None,
        dialect: sa.Dialect,
    ) -> str | None:
        return None if value is None else tokens.unseal(value, _secret_keys())


def sealed_forms(token: str) -> list[bytes]:
    """How `token` may stand in the database: under the current key, then under former ones."""
    return [tokens.seal(token, key) for key in _secret_keys()]


def _secret_keys() -> list[str]:
    config = current_app.config
    return [config["SECRET_KEY"], *(config["SECRET_KEY_FALLBACKS"] or ())]
