"""What `flask db ...` runs: every migration of one command in one transaction, or none."""

import time
import warnings
from typing import Literal

import click
import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext
from flask import current_app
from sqlalchemy.exc import DatabaseError

from app import columns
from app.extensions import db, take_time

WAIT_SECONDS = 60  # a database container that starts beside this one
LOCK_ID = 0x6D626C  # "mbl": one upgrade at a time, whoever else uses advisory locks

# SQLite's indexes on an expression cannot be compared with the models; the
# tests hold what they are for instead.
warnings.filterwarnings("ignore", message=".*expression-based index")


def connect() -> sa.Connection:
    """A connection; waits a while for a database that does not answer yet."""
    give_up = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return db.engine.connect()
        except DatabaseError as error:
            reason = " ".join(str(error.orig).split())
            if db.engine.dialect.name == "sqlite":
                # Two that open a new file at once: SQLite does not wait while it
                # turns to its write-ahead log.
                final = "locked" not in reason
            else:
                # FATAL is the server's own word: it answers, and refuses.
                final = "FATAL" in reason and "starting up" not in reason
            if final or time.monotonic() > give_up:
                raise click.ClickException(f"cannot open {db.engine.url}: {reason}") from None
            click.echo(f"waiting for the database to answer: {reason}", err=True)
            time.sleep(0.5)


def lock(connection: sa.Connection) -> None:
    """Makes whoever else upgrades at this moment wait, until the transaction ends."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        # Waiting for another, or changing a large table, may take its time.
        take_time(connection)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK_ID)))


def render_item(kind: str, item: object, _context: AutogenContext) -> str | Literal[False]:
    """Writes a column type of ours as what the database sees: migrations outlive the code."""
    if kind == "type" and isinstance(item, (columns.SealedToken, columns.UTCDateTime)):
        return f"sa.{item.impl!r}"
    return False


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
            **current_app.extensions["migrate"].configure_args,
        )
        with context.begin_transaction():
            lock(connection)
            context.run_migrations()


run_migrations()
