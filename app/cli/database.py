"""`flask db-backup` and `flask db-restore`, for a SQLite database."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from flask import current_app
from flask.cli import with_appcontext

from app.cli.common import DatabaseCommand
from app.extensions import db, path_of_sqlite_file
from app.models import User
from ownership import give_to_owner_of_folder


@click.command("db-backup", cls=DatabaseCommand)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@with_appcontext
def backup(file: Path, *, force: bool) -> None:
    """Copy the SQLite database to FILE, also while servers use it."""
    path = path_of_database()
    refuse_database_itself(file, path)
    target = file.resolve()  # a link stays, and what it leads to is replaced
    if target.exists() and not target.is_file():
        raise click.ClickException(f"{file} is no regular file")
    if target.exists() and not force:
        raise click.ClickException(f"{file} exists; repeat with --force to replace it")
    with errors_of(f"cannot copy {path} to {file}"), db.engine.connect() as connection:
        source = driver_of(connection)
        refuse_other_database(source, path)
        with checked_copy(source, target) as copy:
            move(copy, target)
    click.echo(f"{file} is a backup of {path}")


@click.command("db-restore", cls=DatabaseCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_appcontext
def restore(file: Path, *, yes: bool) -> None:
    """Replace all data of the SQLite database by those of the backup FILE.

    Servers may run meanwhile: each of their requests finds the old data or the new.
    """
    path = path_of_database()
    refuse_database_itself(file, path)
    with (
        errors_of(str(file)),
        closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as source,
    ):
        is_current = check_revision(source, file)
        with checked_copy(source, path) as copy:
            if not yes:
                click.confirm(f"Replace all data in {path}?", abort=True)
            if path.exists():
                write_into_database(copy)
            else:
                put_in_place(copy, path)
    click.echo(f"{path} has the data of {file}")
    if not is_current:
        click.echo("their schema is of an older version; run `flask db upgrade`")


def path_of_database() -> Path:
    path = path_of_sqlite_file(db.engine.url)
    if path is None:
        raise click.ClickException(
            "only for a SQLite file; for PostgreSQL use pg_dump and pg_restore, or archive its "
            "write-ahead log (pg_basebackup, pgBackRest); see docs/postgresql.md"
        )
    return Path(path)


def refuse_database_itself(file: Path, path: Path) -> None:
    own = path.resolve()
    if file.resolve() in {own.with_name(own.name + end) for end in ("-wal", "-shm", "-journal")}:
        raise click.ClickException(f"{file} is a part of the database")
    with suppress(FileNotFoundError):
        if file.samefile(path):
            raise click.ClickException(f"{file} is the database itself")


@contextmanager
def errors_of(what: str) -> Iterator[None]:
    """End the command with one line, which begins with `what`, if a file cannot be used."""
    try:
        yield
    except sqlite3.Error as error:
        raise click.ClickException(f"{what}: {error}") from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or what}: {error.strerror}") from None


def driver_of(connection: sa.Connection) -> Any:
    """Return the `sqlite3.Connection`."""
    return connection.connection.driver_connection


@contextmanager
def checked_copy(source: sqlite3.Connection, beside: Path) -> Iterator[Path]:
    """Copy a database into a new file beside another; remove the copy in the end.

    The copy is complete, on the disk, without errors and without a -wal.

    Raises:
        click.ClickException: the data have errors.
        OSError, sqlite3.Error: the copy cannot be written, or `source` not be read.
    """
    number, name = tempfile.mkstemp(dir=beside.parent, prefix=f".{beside.name}.", suffix=".part")
    copy = Path(name)
    try:
        os.close(number)
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("PRAGMA journal_mode = MEMORY")  # if killed, leaves one file
            # All in one step: it holds up no writer, and sees none of what they write
            # meanwhile. In several steps it begins anew after each change.
            source.backup(connection)
            connection.execute("PRAGMA journal_mode = DELETE")
            for check in ("integrity_check", "foreign_key_check"):
                row = connection.execute(f"PRAGMA {check}").fetchone()
                if row not in {None, ("ok",)}:
                    raise click.ClickException(f"the data have errors: {check}: {row}")
        sync(copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def refuse_other_database(source: sqlite3.Connection, file: Path) -> None:
    tables = {name for (name,) in source.execute("SELECT name FROM sqlite_master")}
    if not {"alembic_version", User.__tablename__} <= tables:
        raise click.ClickException(f"{file} is no database of this application")


def check_revision(source: sqlite3.Connection, file: Path) -> bool:
    """Return whether the schema is that of the newest migration; else it is older.

    Raises:
        click.ClickException: it is no database of this application, or of a newer version.
    """
    refuse_other_database(source, file)
    rows = source.execute("SELECT version_num FROM alembic_version").fetchall()
    migrations = ScriptDirectory(str(Path(current_app.root_path).parent / "migrations"))
    known = {script.revision for script in migrations.walk_revisions()}
    found = {revision for (revision,) in rows}
    if not found or not found <= known:
        text = (
            f"its schema is of an unknown revision ({', '.join(found) or 'none'}); update the code"
        )
        raise click.ClickException(text)
    return found == set(migrations.get_heads())


def write_into_database(copy: Path) -> None:
    """Replace all that the database contains, in one transaction."""

    def stop_if_locked(status: int, _remaining: int, _total: int) -> None:
        if status in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:  # else it is tried for ever
            raise click.ClickException("another transaction locks the database; nothing is changed")

    try:
        with (
            db.engine.connect() as connection,
            closing(sqlite3.connect(copy)) as source,
        ):
            source.backup(driver_of(connection), progress=stop_if_locked)
    except sa.exc.OperationalError:
        raise
    except sqlite3.OperationalError as error:  # a full disk
        text = f"cannot write {db.engine.url.database}: {error}; nothing is changed"
        raise click.ClickException(text) from None
    except (sa.exc.DatabaseError, sqlite3.Error) as error:
        reason = getattr(error, "orig", error)
        text = f"cannot replace {db.engine.url.database}: {reason}; stop the server, "
        raise click.ClickException(f"{text}move the file away, and repeat this") from None


def put_in_place(copy: Path, path: Path) -> None:
    """Make `copy` the database, where there is none."""
    for end in ("-wal", "-shm"):  # of a file that is gone; SQLite would mix them with the copy
        path.with_name(path.name + end).unlink(missing_ok=True)
    with closing(sqlite3.connect(copy)) as connection:
        # Two connections of a server that turn it on at once would fail.
        connection.execute("PRAGMA journal_mode = WAL")
    give_to_owner_of_folder(copy)  # which is beside it
    move(copy, path)


def move(copy: Path, target: Path) -> None:
    copy.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Write a file or the names in a directory to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
