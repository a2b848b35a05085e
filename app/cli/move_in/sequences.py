"""The next ids, which no row has had."""

import sqlalchemy as sa

from app.cli.move_in.copying import Part
from app.cli.move_in.databases import Source

_SEQUENCES = "sqlite_sequence"  # of SQLite, for tables with AUTOINCREMENT


def copy_sequences(source: Source, parts: list[Part], target: sa.Engine) -> None:
    """Let new rows have ids that no row has had.

    Where the source says it, also none that was deleted: PostgreSQL does, and our tables on
    SQLite.
    """
    with target.begin() as connection:
        for part in parts:
            id = part.table.primary_key.columns.get("id")
            if id is None:
                continue
            highest = connection.scalar(sa.select(sa.func.max(id))) or 0
            last = max(highest, _last_id(source.connection, part.table.name) or 0)
            if last:
                _set_last_id(connection, part.table, last)


def _last_id(connection: sa.Connection, table: str) -> int | None:
    """Return the last id that the database has given to a row; `None` where it does not say."""
    if connection.dialect.name == "postgresql":
        query = "SELECT pg_get_serial_sequence(quote_ident(:table), 'id')"
        sequence = connection.scalar(sa.text(query), {"table": table})
        if sequence is None:
            return None
        if not connection.scalar(sa.select(sa.func.has_sequence_privilege(sequence, "SELECT"))):
            return None
        query = f"SELECT last_value FROM {sequence} WHERE is_called"  # noqa: S608  quoted by PostgreSQL
    elif connection.dialect.name == "sqlite" and sa.inspect(connection).has_table(_SEQUENCES):
        query = f"SELECT seq FROM {_SEQUENCES} WHERE name = :table"  # noqa: S608  a constant
    else:
        return None
    last: int | None = connection.scalar(sa.text(query), {"table": table})
    return last


def _set_last_id(connection: sa.Connection, table: sa.Table, last: int) -> None:
    if connection.dialect.name == "postgresql":
        query = "SELECT setval(pg_get_serial_sequence(quote_ident(:table), 'id'), :last)"
        connection.execute(sa.text(query), {"table": table.name, "last": last})
    elif table.dialect_options["sqlite"]["autoincrement"]:
        values = {"table": table.name, "last": last}
        connection.execute(sa.text(f"DELETE FROM {_SEQUENCES} WHERE name = :table"), values)  # noqa: S608  a constant
        connection.execute(sa.text(f"INSERT INTO {_SEQUENCES} VALUES (:table, :last)"), values)  # noqa: S608  a constant
