"""The Flask extensions, created without an application, and how each database is opened."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import ConnectionPoolEntry

from app.postgresql import REPLICA_SECONDS, connect_args, use_primary, use_replica
from ownership import give_to_owner_of_folder
from sqlite_driver import SQLiteConnection, SQLiteFile

SQLITE_WAIT_SECONDS = 10  # that a writer waits for the lock
SQLITE_MAPPED_BYTES = 2**30  # of the file; what is beyond is read as usual
SQLITE_WAL_BYTES = 64 * 2**20  # to which the -wal is cut; without long readers it has 4 MiB
MOST_CONNECTIONS = 20  # of one process, to the primary and to the replica each
REPLICA = "replica"  # its key in `db.engines`
# Execution options of a SELECT that must never be answered by the replica.
PRIMARY = {"primary": True}
IN_MEMORY = {None, "", ":memory:"}  # SQLite databases that are no file

_creating_file = Lock()


class Base(DeclarativeBase):
    # Names for every constraint, so that a migration can address each of them.
    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Database(SQLAlchemy):
    def create_all(self, bind_key: str | list[str | None] | None = "__all__") -> None:
        """Create the tables, and the file of a SQLite database that has none."""
        create_sqlite_file()
        super().create_all(bind_key)


# The response shows objects after the commit: reading them again would cost a
# statement, and could fail after the data was stored.
db = Database(model_class=Base, session_options={"expire_on_commit": False})
if TYPE_CHECKING:
    Model = Base  # a type checker needs a class that it can see
else:
    Model = db.Model
# Without batch mode, which on SQLite copies a table and loses its indexes on expressions.
migrate = Migrate(render_as_batch=False)


def init_app(app: Flask) -> None:
    url = sa.make_url(app.config["SQLALCHEMY_DATABASE_URI"])
    app.config.setdefault(
        "SQLALCHEMY_ENGINE_OPTIONS", engine_options(url, app.config["WEB_THREADS"])
    )
    replica = app.config["DATABASE_REPLICA_URL"]
    if replica is not None:
        options = engine_options(
            sa.make_url(replica),
            app.config["WEB_THREADS"],
            connect_seconds=2,  # the least that Psycopg takes
        )
        bind = options | {"url": replica, "pool_timeout": REPLICA_SECONDS}
        app.config["SQLALCHEMY_BINDS"] = app.config.get("SQLALCHEMY_BINDS", {}) | {REPLICA: bind}
    db.init_app(app)
    migrate.init_app(app, db)
    with app.app_context():
        if url.get_backend_name() == "sqlite":
            sa.event.listen(db.engine, "connect", configure_sqlite)
            path = path_of_sqlite_file(url)
            if path is not None:
                file = SQLiteFile(path)
                sa.event.listen(db.engine, "do_connect", file.connect)
                sa.event.listen(db.engine, "checkout", file.check)
        else:
            use_primary(db.engine)
        if replica is not None:
            use_replica(db.engines[REPLICA])


def insert(model: type[Base]) -> Any:
    """Return an INSERT that can take an `ON CONFLICT`, in the dialect of the database."""
    make = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[db.engine.dialect.name]
    return make(model)


def rows_changed(statement: sa.UpdateBase) -> int:
    """Execute an INSERT, UPDATE or DELETE; return how many rows it inserted or matched."""
    # Without the option SQLAlchemy does not keep the number for an INSERT.
    result = db.session.execute(statement, execution_options={"preserve_rowcount": True})
    return cast("sa.CursorResult[Any]", result).rowcount


def engine_options(url: sa.URL, threads: int, connect_seconds: int = 3) -> dict[str, Any]:
    """Return keyword arguments of `sqlalchemy.create_engine` for the database at `url`.

    Args:
        url: of a SQLite or PostgreSQL database.
        threads: how many threads one process has.
        connect_seconds: to wait for each host of PostgreSQL.
    """
    # A logged statement must not contain e-mail addresses and hashes.
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {
            # A writer takes the lock with its first statement. A deferred
            # transaction that reads and then writes fails at once if another
            # one wrote in between, whatever the timeout.
            "isolation_level": "IMMEDIATE",
            "timeout": SQLITE_WAIT_SECONDS,
        }
        if url.database in IN_MEMORY:
            return options  # Flask-SQLAlchemy has all threads share one connection (StaticPool)
    else:
        options["connect_args"] = connect_args(url, connect_seconds)
    # A request holds a connection only while it uses the database, not while it
    # is read or a password is hashed: many threads need few connections.
    return options | {
        "pool_size": min(threads, MOST_CONNECTIONS),
        "max_overflow": 0,
        "pool_timeout": 5,  # seconds
    }


def path_of_sqlite_file(url: sa.URL) -> str | None:
    """Return the path of a SQLite database; `None` for any other, or one in memory."""
    is_file = url.get_backend_name() == "sqlite" and url.database not in IN_MEMORY
    return url.database if is_file and "uri" not in url.query else None  # file:app.db?mode=ro


def create_sqlite_file() -> None:
    """Create the file of a SQLite database that has none, for its owner only.

    Called where tables are made, and nowhere else: a server whose file is gone must not
    begin with an empty one. SQLite gives its -wal and -shm the same mode and owner.

    Raises:
        OSError: it cannot be created.
    """
    path = path_of_sqlite_file(db.engine.url)
    # Never opens an existing file: to close it would drop the locks that SQLite holds
    # on it for other threads of this process.
    with _creating_file:
        if path is not None and not Path(path).exists():
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode=0o600)
            try:
                give_to_owner_of_folder(Path(path), descriptor)
            finally:
                os.close(descriptor)


def configure_sqlite(connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait
    connection.execute("PRAGMA synchronous = FULL")  # what was acknowledged survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_size_limit = {SQLITE_WAL_BYTES}")
    # Read through the cache of the system: SQLite's own holds 2 MB, and is emptied by each
    # write of another connection.
    connection.execute(f"PRAGMA mmap_size = {SQLITE_MAPPED_BYTES}")
    if isinstance(connection, SQLiteConnection):
        connection.watch_companions()


def use_database_time() -> None:
    """Connect the session, so that `utc_now()` is the time of the database.

    In a process that has not connected yet, it is that of the machine.
    """
    db.session.connection()


def remove_timeout(connection: sa.Connection) -> None:
    """Remove the statement timeout of this connection (for commands and migrations)."""
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection.driver_connection
        driver.answer_seconds = None


@contextmanager
def without_waiting(connection: sa.Connection) -> Iterator[None]:
    """Make statements of the block fail at once where another transaction holds a lock.

    Commit or roll back after the block.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL lock_timeout = '10ms'")  # until the commit
        yield
        return
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {SQLITE_WAIT_SECONDS * 1000}")
