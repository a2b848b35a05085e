"""`flask move-in`: copy the database of a tutorial application, or another of our own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from flask.cli import with_appcontext

from app.cli.common import DatabaseCommand
from app.cli.move_in import ours, tutorial
from app.cli.move_in.copying import BATCH, Part, Sum, copy, empty, sums_of
from app.cli.move_in.databases import Source, analyze, open_source, open_target
from app.cli.move_in.sequences import copy_sequences
from app.cli.move_in.target import refuse_if_used
from app.extensions import db, use_database_time
from app.models import recount


@click.command("move-in", cls=DatabaseCommand)
@click.argument("source", metavar="SOURCE_URL")
@click.option("--copy", "is_copied", is_flag=True, help="Copy; without it, only say what would be.")
@click.option(
    "--resolve",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A CSV file with id, username and email of users who cannot be copied as they are. "
    "If it does not exist, it is written with proposals.",
)
@click.option("--leave-out", is_flag=True, help="Copy although some rows cannot be stored here.")
@with_appcontext
def command(source: str, resolve: Path | None, *, is_copied: bool, leave_out: bool) -> None:
    """Copy all data of another database into this one, which must be empty.

    SOURCE_URL is that of an application of the Flask Mega-Tutorial (SQLite, PostgreSQL,
    MySQL or MariaDB), or of this API. It is only read, and may be in use meanwhile. If the
    copy was interrupted, or the source has changed, run the command again.
    """
    with open_source(source) as opened, open_target() as target:
        use_database_time()  # which says what tokens are live
        db.session.rollback()
        parts = parts_of(opened, resolve)
        refuse_if_used(parts, target)
        refused = check(parts)
        if not is_copied:
            click.echo("Nothing was copied. To copy, repeat this with --copy.")
            return
        if refused and not leave_out:
            raise click.ClickException("some rows cannot be copied; --leave-out copies the others")
        move(opened, parts, target)
        click.echo(f"{db.engine.url.render_as_string()} has all of it, verified.")


def parts_of(source: Source, resolve: Path | None) -> list[Part]:
    """Return what is copied, the tables that others refer to first.

    Raises:
        click.ClickException: it is no database that can be copied.
    """
    if ours.is_source(source.connection):
        if resolve is not None:
            raise click.UsageError("--resolve is only for the database of a tutorial application")
        return ours.parts(source)
    if tutorial.is_source(source.connection):
        return tutorial.parts(source, resolve)
    raise click.ClickException(
        f"{source.name} is the database of neither a tutorial application nor this API"
    )


def check(parts: list[Part]) -> int:
    """Read all rows, say how many there are; return how many cannot be copied."""
    refused = 0
    for part in parts:
        part.number = 0
        with progress(f"  reading {part.table.name}", part.estimate) as step:
            for _ in part.rows():
                part.number += 1
                step()
        click.echo(f"  {part.table.name}: {part.number:,} rows{part.remark()}")
        for reason, number in part.refused.items():
            click.echo(f"    left out: {number:,} {reason}")
            refused += number
    return refused


def move(source: Source, parts: list[Part], target: sa.Engine) -> None:
    """Copy all rows, which were read before by `check`, and compare the result.

    Raises:
        click.ClickException: a row cannot be stored, or the result differs.
    """
    try:
        read = copy_all(parts, target)
    except sa.exc.IntegrityError:
        # In the way of each other: of two users who have swapped their names since the last
        # copy, the first cannot get the name that the second still has.
        click.echo("  the copy begins anew")
        empty(parts, target)
        try:
            read = copy_all(parts, target)
        except sa.exc.IntegrityError as error:
            reason = str(error.orig).splitlines()[0]
            raise click.ClickException(f"a row cannot be stored: {reason}") from None
    copy_sequences(source, parts, target)
    verify(parts, target, read)
    analyze(target)
    recount()


def copy_all(parts: list[Part], target: sa.Engine) -> dict[str, Sum]:
    """Copy the rows of each part; return what was read."""
    sums = {}
    for part in parts:
        with progress(f"  copying {part.table.name}", part.number) as step:
            sums[part.table.name] = copy(part, target, step)
    return sums


def verify(parts: list[Part], target: sa.Engine, read: dict[str, Sum]) -> None:
    """Compare number and checksum of what was read with what is stored.

    Raises:
        click.ClickException: they differ, or the server was used meanwhile.
    """
    for part in parts:
        with progress(f"  verifying {part.table.name}", part.number) as step:
            stored = sums_of(part, target, step)
        if stored != read[part.table.name]:
            raise click.ClickException(
                f"{part.table.name} differs from the source ({stored.rows:,} rows instead of "
                f"{read[part.table.name].rows:,}); is the server on?"
            )
    refuse_if_used(parts, target)


@contextmanager
def progress(label: str, length: int) -> Iterator[Any]:
    """Show a progress bar on a terminal; yield what to call for each row."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(
        length=length, label=label, update_min_steps=BATCH, file=sys.stderr, hidden=hidden
    ) as bar:
        yield lambda: bar.update(1)
