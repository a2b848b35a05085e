"""Whether our database may get the rows of another one, without losing any of its own."""

from collections.abc import Iterable

import click
import sqlalchemy as sa

from app.cli.move_in.copying import Part, has_other_rows
from app.extensions import db
from app.models import Total


def refuse_if_used(parts: list[Part], target: sa.Engine) -> None:
    """Refuse a database that has more than what an earlier copy has brought.

    A user who came from a tutorial application shows whether the server has changed anything:
    it notes each use of a token, and each password that was right. Of a database of this API,
    every row must be as the source has it.

    Raises:
        click.ClickException: the database is used.
    """
    copied = {part.table for part in parts}
    used = _filled(table for table in db.metadata.sorted_tables if table not in copied)
    for part in parts:
        if part.untouched is not None:
            touched = sa.exists(part.table).where(sa.not_(part.untouched)).select()
            is_used = bool(db.session.scalar(touched))
        else:
            is_used = part.is_append_only and has_other_rows(part, target)
        if is_used:
            used.append(part.table.name)
    db.session.rollback()  # no transaction stays open while rows are copied
    if used:
        raise click.ClickException(
            f"the database is used already ({', '.join(used)}), and a copy would lose that; copy "
            "into a new one, which `flask db upgrade` sets up"
        )


def _filled(tables: Iterable[sa.Table]) -> list[str]:
    """Return the names of those that have a row."""
    return [
        table.name
        for table in tables
        if table is not Total.__table__ and db.session.scalar(sa.exists(table).select())
    ]
