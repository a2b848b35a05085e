"""The Flask extensions, created without an application, and how each database is opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import psycopg
import sqlalchemy as sa
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from psycopg.pq import TransactionStatus
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import ConnectionPoolEntry

SQLITE_WAIT_SECONDS = 10  # that a writer waits for its turn
MOST_CONNECTIONS = 20  # of one process


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


# What was committed is what is answered with: reading it again costs a
# statement, and may fail when nothing can be taken back any more.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
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
    db.init_app(app)
    migrate.init_app(app, db)
    with app.app_context():
        if url.get_backend_name() == "sqlite":
            sa.event.listen(db.engine, "connect", configure_sqlite)
        else:
            sa.event.listen(db.engine, "do_connect", connect_to_postgresql)


def insert(model: type[Base]) -> Any:
    """An INSERT that has an ON CONFLICT, which SQLAlchemy's own has not."""
    make = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[db.engine.dialect.name]
    return make(model)


def rows_changed(statement: sa.UpdateBase) -> int:
    """Executes an INSERT, UPDATE or DELETE; gives how many rows it has made or found."""
    # Without the option SQLAlchemy does not keep the number for an INSERT.
    result = db.session.execute(statement, execution_options={"preserve_rowcount": True})
    return cast("sa.CursorResult[Any]", result).rowcount


def engine_options(url: sa.URL, threads: int) -> dict[str, Any]:
    """Keyword arguments of `sqlalchemy.create_engine` for the database at `url`.

    Args:
        url: of a SQLite or PostgreSQL database.
        threads: how many threads one process has.
    """
    # What was logged of a failed statement must not hold e-mail addresses and hashes.
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {
            # A writer takes the lock with its first statement. One that
            # reads, then writes in a deferred transaction fails at once
            # when somebody else wrote in between, however long it may wait.
            "isolation_level": "IMMEDIATE",
            "timeout": SQLITE_WAIT_SECONDS,
        }
        if url.database in {None, "", ":memory:"}:
            return options  # one connection, shared by all threads
    else:
        connect_args = {
            "connect_timeout": 3,  # seconds
            # A host that is gone sends nothing back: give up after 10 s (given in
            # milliseconds), and probe a connection that was idle for 10 s.
            "tcp_user_timeout": 10_000,
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
        }
        # What the URL itself says wins.
        options["connect_args"] = {k: v for k, v in connect_args.items() if k not in url.query}
        options["pool_pre_ping"] = True  # no request is lost to a server that has restarted
    # A request has a connection for as long as it uses the database, not while it
    # is read or a password is hashed: many threads do with few.
    return options | {
        "pool_size": min(threads, MOST_CONNECTIONS),
        "max_overflow": 0,
        "pool_timeout": 5,  # seconds
    }


def configure_sqlite(connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait
    connection.execute("PRAGMA synchronous = FULL")  # what was acknowledged survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


class PostgreSQLConnection(psycopg.Connection[Any]):
    """A connection that gives up on a server which took a statement and fell silent.

    Attributes:
        answer_seconds: how long it waits; `None` is for ever.
    """

    answer_seconds: float | None = 10

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.answer_seconds)
        except psycopg.OperationalError:
            if self.info.transaction_status == TransactionStatus.ACTIVE:
                self.close()  # an answer that comes later must not be taken for the next one's
            raise


def take_time(connection: sa.Connection) -> None:
    """Lets statements of this connection take as long as they need: those of an owner."""
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection.driver_connection
        driver.answer_seconds = None


@contextmanager
def without_waiting(connection: sa.Connection) -> Iterator[None]:
    """Makes a statement fail at once, and not wait, where others have locked what it changes.

    To be committed, or rolled back, once the block has been left.
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


def connect_to_postgresql(
    _dialect: sa.Dialect, _entry: ConnectionPoolEntry, args: Any, parameters: Any
) -> PostgreSQLConnection:
    return PostgreSQLConnection.connect(*args, **parameters)
