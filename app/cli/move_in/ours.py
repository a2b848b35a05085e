"""From a database of this API: each table, as it is stored."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import click
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from flask import current_app

from app.cli.move_in.copying import Part, Row, as_stored, stored_rows
from app.cli.move_in.databases import Source
from app.clock import utc_now
from app.extensions import db
from app.models import Total, User
from app.security import tokens


def is_source(connection: sa.Connection) -> bool:
    """Return whether it is a database of this API.

    Raises:
        click.ClickException: it is, with another schema than that of this code.
    """
    tables = set(sa.inspect(connection).get_table_names())
    if not {"alembic_version", Total.__tablename__, User.__tablename__} <= tables:
        return False
    found = set(connection.scalars(sa.text("SELECT version_num FROM alembic_version")))
    heads = set(ScriptDirectory(current_app.extensions["migrate"].directory).get_heads())
    if found != heads:
        raise click.ClickException(
            f"the source has the schema {', '.join(found) or 'of none'}, and this code "
            f"{', '.join(heads)}; run `flask db upgrade` there with the code of this version"
        )
    return True


def parts(source: Source) -> list[Part]:
    return [
        _Table(table, source.connection)
        for table in db.metadata.sorted_tables
        if table is not Total.__table__  # which is counted in the end
    ]


class _Table(Part):
    is_append_only = True

    def __init__(self, table: sa.Table, connection: sa.Connection) -> None:
        self.table = table
        self.names = [column.name for column in table.columns]
        self.estimate = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        self.refused = Counter()
        self._connection = connection

    def rows(self) -> Iterator[Row]:
        return stored_rows(self, self._connection)

    def remark(self) -> str:
        if self.table is not User.__table__:
            return ""
        column: Any = as_stored(self.table.c["token"])
        live = sa.select(column).where(self.table.c["token_expiration"] > utc_now())
        lost = sum(
            tokens.unseal(bytes(sealed)) is None
            for sealed in self._connection.scalars(live.where(column.is_not(None)))
        )
        if not lost:
            return ""
        return (
            f"; {lost:,} are logged in under another SECRET_KEY: name it in SECRET_KEY_FALLBACKS, "
            "or they have to log in again"
        )
