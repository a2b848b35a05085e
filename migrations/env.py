"""Run by `flask db ...`: all migrations of a command in one transaction, or none."""

import time
import warnings
from typing import Any, Literal

import click
import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext
from flask import current_app
from sqlalchemy.exc import DatabaseError

from app.extensions import create_sqlite_file, db, remove_timeout
from app.models import columns

WAIT_SECONDS = 60  # for a database container that starts at the same time
LOCK_ID = 0x6D626C  # "mbl"; differs from the advisory locks of other programs

# Alembic cannot compare SQLite's indexes on an expression with the models.
warnings.filterwarnings("ignore", message=".*expression-based index")


def connect() -> sa.Connection:
    """Return a connection; wait up to `WAIT_SECONDS` for a database that does not answer yet."""
    try:
        create_sqlite_file()
    except OSError as error:
        reason = f"cannot create {error.filename}: {error.strerror}"
        raise click.ClickException(reason) from None
    give_up = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return db.engine.connect()
        except DatabaseError as error:
            reason = " ".join(str(error.orig).split())
            if db.engine.dialect.name == "sqlite":
                # SQLite does not wait while another process switches a new file to
                # the write-ahead log.
                final = "locked" not in reason
            else:
                # FATAL comes from the server: it answers, and refuses.
                final = "FATAL" in reason and "starting up" not in reason
            if final or time.monotonic() > give_up:
                raise click.ClickException(f"cannot open {db.engine.url}: {reason}") from None
            click.echo(f"waiting for the database to answer: {reason}", err=True)
            time.sleep(0.5)


def lock(connection: sa.Connection) -> None:
    """Let other upgrades wait until the end of this transaction."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        # Waiting for another upgrade, or changing a large table, may take long.
        remove_timeout(connection)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK_ID)))


def render_item(kind: str, item: object, _context: AutogenContext) -> str | Literal[False]:
    """Write our column types as types of SQLAlchemy, so that migrations outlive the code."""
    if kind == "type" and isinstance(
        item, (columns.SealedToken, columns.UTCDateTime, columns.WordList)
    ):
        return f"sa.{item.impl!r}"
    return False


def is_compared(thing: Any, _name: str | None, kind: str, *_: Any) -> bool:
    """Return whether `flask db check` compares it with the models.

    Not a foreign key that SQLite was given together with its column: SQLAlchemy reads
    neither its name nor what it does on a delete.
    """
    if kind != "foreign_key_constraint" or db.engine.dialect.name != "sqlite":
        return True
    return bool(thing.column_keys != ["current_id"])


def run_migrations() -> None:
    if context.is_offline_mode():  # flask db upgrade --sql
        context.configure(url=db.engine.url, target_metadata=db.metadata, literal_binds=True)
        with context.begin_transaction():
            context.run_migrations()
        return
    with connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            transactional_ddl=True,  # SQLite can, and is told to by lock()
            render_item=render_item,
            include_object=is_compared,
            **current_app.extensions["migrate"].configure_args,
        )
        with context.begin_transaction():
            lock(connection)
            context.run_migrations()


run_migrations()
