"""Copy the rows of a table, compare them, and count them."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import click
import sqlalchemy as sa

from app.models.columns import SealedToken, as_utc

BATCH = 10_000  # rows, of one statement and of one transaction

Row = tuple[Any, ...]


class Sum(NamedTuple):
    """Of all rows of a table: their number, and a checksum that does not depend on the order."""

    rows: int
    checksum: int


class Part:
    """A table of ours, and the rows that it gets.

    Attributes:
        table: ours.
        names: of its columns that are copied.
        estimate: how many rows the source has, perhaps more than can be copied.
        number: how many can be copied, once they were read.
        refused: how many rows cannot be stored here, by the reason.
        untouched: what is true of a copied row until the server changes it; `None` where that
            cannot be seen.
        is_append_only: whether a stored row is never changed, as it is another's if it differs.
    """

    table: sa.Table
    names: list[str]
    estimate: int
    number: int
    refused: Counter[str]
    untouched: sa.ColumnElement[bool] | None = None
    is_append_only = False

    def rows(self) -> Iterator[Row]:
        """Yield the values of `names` of each row, in the order of `key_of`."""
        raise NotImplementedError

    def remark(self) -> str:
        """Return what else is to be said about the rows, once they were read."""
        return ""

    # The order of rows is that of the primary key, the same in each database.

    def order(self, dialect: sa.Dialect) -> list[Any]:
        """Return the expressions by which a database orders the rows of our table."""
        if dialect.name != "postgresql":
            return list(self.table.primary_key)
        # As SQLite and Python compare texts.
        return [
            sa.collate(column, "C") if isinstance(column.type, sa.String) else column
            for column in self.table.primary_key
        ]

    def key_of(self, row: Row) -> Row:
        """Return what the rows are ordered by."""
        return tuple(row[i] for i in self._key)

    @cached_property
    def _key(self) -> list[int]:
        return [self.names.index(column.name) for column in self.table.primary_key]


def stored_rows(part: Part, connection: sa.Connection) -> Iterator[Row]:
    """Yield the rows of the table in a database of ours."""
    table, dialect = part.table, connection.dialect
    columns = [as_stored(table.c[name]) for name in part.names]
    query = sa.select(*columns).order_by(*part.order(dialect))
    return stream(connection, query)


def as_stored(column: sa.Column[Any]) -> Any:
    """Return a column whose token is read as it is sealed."""
    if isinstance(column.type, SealedToken):
        return sa.type_coerce(column, sa.LargeBinary).label(column.name)
    return column


def stream(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Row]:
    """Yield the rows of a query, of which only `BATCH` are in memory."""
    with connection.execute(query.execution_options(yield_per=BATCH)) as result:
        for row in result:
            yield tuple(map(_normal, row))


def _normal(value: Any) -> Any:
    """Return a time in UTC, and bytes as `bytes`."""
    if isinstance(value, datetime):
        return as_utc(value)
    return bytes(value) if isinstance(value, memoryview) else value


def checksum(row: Row) -> int:
    return int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=8).digest())


def sums_of(part: Part, target: sa.Engine, step: Callable[[], None] = lambda: None) -> Sum:
    """Return number and checksum of what is stored."""
    rows = total = 0
    with target.connect() as connection:
        for row in stored_rows(part, connection):
            rows += 1
            total += checksum(row)
            step()
    return Sum(rows, total % 2**64)


# -- Copying -------------------------------------------------------------------------------


def copy(part: Part, target: sa.Engine, step: Callable[[], None]) -> Sum:
    """Insert, update and delete rows until our table has those of the source; return their sum.

    Raises:
        sqlalchemy.exc.IntegrityError: a row is in the way of another.
    """
    rows = total = 0

    def read() -> Iterator[Row]:
        nonlocal rows, total
        for row in part.rows():
            rows += 1
            total += checksum(row)
            step()
            yield row

    with target.connect() as reading, target.connect() as writing:
        for changes in _batches(_differences(part, read(), stored_rows(part, reading))):
            _write(part, changes, writing)
    return Sum(rows, total % 2**64)


def has_other_rows(part: Part, target: sa.Engine) -> bool:
    """Return whether our table has a row that the source does not have as it is."""
    with target.connect() as connection:
        changes = _differences(part, part.rows(), stored_rows(part, connection))
        # All of them are read, so that no cursor stays open.
        return sum(old is not None for _, old in changes) > 0


Change = tuple[Row | None, Row | None]  # the row as it is to be, and as it is


def _differences(part: Part, wanted: Iterator[Row], stored: Iterator[Row]) -> Iterator[Change]:
    """Yield what is to be changed. Both are in the order of the keys."""
    new, old = next(wanted, None), next(stored, None)
    while new is not None or old is not None:
        if old is None or (new is not None and part.key_of(new) < part.key_of(old)):
            yield new, None
            new = next(wanted, None)
        elif new is None or part.key_of(old) < part.key_of(new):
            yield None, old
            old = next(stored, None)
        else:
            if new != old:
                yield new, old
            new, old = next(wanted, None), next(stored, None)


def _batches(changes: Iterator[Change]) -> Iterator[list[Change]]:
    while batch := list(itertools.islice(changes, BATCH)):
        yield batch


def _write(part: Part, changes: list[Change], connection: sa.Connection) -> None:
    """Carry out the changes in one transaction.

    Raises:
        click.ClickException: none was, as they would change what is not of the source.
    """
    if part.is_append_only and any(old is not None for _, old in changes):
        raise click.ClickException(f"{part.table.name} was changed meanwhile; is the server on?")
    keys = [column.name for column in part.table.primary_key]
    is_same = [part.table.c[name] == sa.bindparam(f"key_{name}") for name in keys]
    if part.untouched is not None:
        is_same.append(part.untouched)

    def with_key(row: Row) -> dict[str, Any]:
        values = dict(zip(part.names, row, strict=True))
        return {f"key_{name}": values.pop(name) for name in keys} | values

    gone = [with_key(old) for new, old in changes if new is None and old is not None]
    changed = [with_key(new) for new, old in changes if new is not None and old is not None]
    added = [
        dict(zip(part.names, new, strict=True))
        for new, old in changes
        if new is not None and old is None
    ]
    for statement, parameters in (
        (sa.delete(part.table).where(*is_same), gone),
        (sa.update(part.table).where(*is_same), changed),
        (sa.insert(part.table), added),
    ):
        if parameters:
            connection.execute(statement, parameters)
    connection.commit()


def empty(parts: list[Part], target: sa.Engine) -> None:
    """Delete all rows, in one transaction."""
    with target.begin() as connection:
        for part in reversed(parts):
            connection.execute(sa.delete(part.table))
