"""Column types: ids, times in UTC, sealed tokens."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from app.security import tokens

# SQLite numbers the rows of a table by itself only where the type says INTEGER,
# and gives those 64 bits too.
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class UTCDateTime(sa.types.TypeDecorator[datetime]):
    """An aware `datetime` in UTC.

    SQLite stores it without a zone; the SELECT adds the zone again, so that no
    Python code of ours runs for each value that is read.
    """

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

    def column_expression(self, column: sa.ColumnElement[datetime]) -> Any:
        return _InUTC(column)


class _InUTC(sa.sql.functions.FunctionElement[datetime]):
    """A column of type `UTCDateTime` as it is read."""

    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[datetime]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(_InUTC)
def _with_its_zone(element: _InUTC, compiler: Any, **options: Any) -> str:
    """PostgreSQL gives the time in the zone of the connection, which is UTC."""
    return str(compiler.process(element.clauses, **options))


@compiles(_InUTC, "sqlite")
def _append_zone(element: _InUTC, compiler: Any, **options: Any) -> str:
    return f"{compiler.process(element.clauses, **options)} || '+00:00'"


class SealedToken(sa.types.TypeDecorator[str]):
    """The text of a login token, stored sealed under `SECRET_KEY` (`tokens.seal`).

    Reads as `None` where none of the configured keys fits. To find a token, compare
    the bytes: `User.token.in_(tokens.sealed_forms(text))`.
    """

    impl = sa.LargeBinary(56)
    cache_ok = True

    def process_bind_param(
        self,
        value: str | bytes | None,
        dialect: sa.Dialect,
    ) -> bytes | None:
        if isinstance(value, str):
            return tokens.seal(value)
        return value

    def process_result_value(
        self,
        value: bytes | None,
        dialect: sa.Dialect,
    ) -> str | None:
        return None if value is None else tokens.unseal(value)
