"""Column types: ids, times in UTC, lists of words, sealed tokens."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so
from sqlalchemy.ext.compiler import compiles

from app.extensions import Model
from app.security import tokens

# SQLite numbers the rows of a table by itself only where the type says INTEGER,
# and gives those 64 bits too.
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def as_utc(time: datetime | None) -> datetime | None:
    """Return the time in UTC; one without a zone is in UTC already, as in the tutorial."""
    if time is None:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


class UTCDateTime(sa.types.TypeDecorator[datetime]):
    """An aware `datetime` in UTC, also on an object to which another was assigned.

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
        return as_utc(value)

    def column_expression(self, column: sa.ColumnElement[datetime]) -> Any:
        return _InUTC(column)


@sa.event.listens_for(Model, "attribute_instrument")
def _convert_on_assignment(
    _model: type[Model], _name: str, attribute: so.InstrumentedAttribute[Any]
) -> None:
    columns = getattr(attribute.property, "columns", None)
    if columns and isinstance(columns[0].type, UTCDateTime):
        sa.event.listen(attribute, "set", lambda _row, value, *_: as_utc(value), retval=True)


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


class WordList(sa.types.TypeDecorator[list[str]]):
    """Words without spaces, stored with a space between them.

    Not a text in Python: `"adm" in "admin"` is true. Set a new list to change it. Never
    null, also not by an outer join.
    """

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        if isinstance(value, str):
            raise TypeError("set a list of words, not a text")
        return None if value is None else " ".join(value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        return str.split  # of C: nearly every request reads one


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
