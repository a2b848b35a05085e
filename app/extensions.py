"""The Flask extensions, created without an application, and how each database is opened."""

import math
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
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

from app.clock import clock_is_outdated, monotonic_now, set_clock, steady_now
from sqlite_driver import SQLiteConnection, SQLiteFile

SQLITE_WAIT_SECONDS = 10  # that a writer waits for the lock
SQLITE_MAPPED_BYTES = 2**30  # of the file; what is beyond is read as usual
SQLITE_WAL_BYTES = 64 * 2**20  # to which the -wal is cut; without long readers it has 4 MiB
MOST_CONNECTIONS = 20  # of one process, to the primary and to the replica each
REPLICA = "replica"  # its key in `db.engines`
# Execution options of a SELECT that must never be answered by the replica.
PRIMARY = {"primary": True}
REPLICA_SECONDS = 1  # for an answer or a free connection; then the primary is asked
# A primary of several hosts may have been replaced without knowing it, after it was frozen. A
# statement begins within 5 s of the last proof, and may take 10: nobody takes over so soon.
PROOF_SECONDS = 5
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
            sa.event.listen(db.engine, "do_connect", connect_to_postgresql)
            sa.event.listen(db.engine, "checkout", check_connection)
            sa.event.listen(db.engine, "handle_error", leave_read_only_server)
        if replica is not None:
            sa.event.listen(db.engines[REPLICA], "do_connect", connect_to_replica)
            sa.event.listen(db.engines[REPLICA], "checkout", check_connection)


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
        connect_args = {
            "connect_timeout": connect_seconds,
            # Prepared statements fail after a change of the schema, until they are
            # prepared again. Only the look-up of a token is: it is repeated then.
            "prepare_threshold": 2**31,  # executions; with `None`, nothing is ever prepared
            # Give up on a host that does not acknowledge for 10 s (in milliseconds),
            # and probe a connection that was idle for 10 s.
            "tcp_user_timeout": 10_000,
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
        }
        # What the URL itself says wins.
        options["connect_args"] = {k: v for k, v in connect_args.items() if k not in url.query}
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
    begin with an empty one. SQLite gives its -wal and -shm the same mode.

    Raises:
        OSError: it cannot be created.
    """
    path = path_of_sqlite_file(db.engine.url)
    # Never opens an existing file: to close it would drop the locks that SQLite holds
    # on it for other threads of this process.
    with _creating_file:
        if path is not None and not Path(path).exists():
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode=0o600))


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


def check_connection(
    driver: "PostgreSQLConnection", _entry: ConnectionPoolEntry, _proxy: Any
) -> None:
    """Have the pool replace a connection that the server has ended, before it is used.

    `pool_pre_ping` would take a round trip for it. Whatever has arrived since the last
    answer counts as the end; it may also be a notice, which is rare. A host that is gone
    is noticed by keep-alive, see `engine_options`.
    """
    if driver.is_new:  # the pool replaces a connection once, and then raises an error of its own
        driver.is_new = False
        return
    if driver.closed or driver.has_unread_data():
        raise sa.exc.DisconnectionError("the server has ended the connection")
    if driver.proof_ends_at < monotonic_now():
        try:
            prove_primary(driver)
        except psycopg.OperationalError as error:
            raise sa.exc.InvalidatePoolError("the primary does not commit") from error
    if driver.tells_time and clock_is_outdated():
        try:
            read_clock(driver)
        except psycopg.OperationalError as error:
            raise sa.exc.DisconnectionError("the server does not answer") from error
    if driver.autocommit:  # left by a SELECT that has failed
        driver.autocommit = False


def leave_read_only_server(context: sa.ExceptionContext) -> None:
    """Replace all connections if one of them has reached a server that is no primary.

    A failover does that where an address stays and the server behind it changes.
    """
    if isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
        context.is_disconnect = True


def prove_primary(driver: "PostgreSQLConnection") -> None:
    """Commit a message that nobody reads, and wait for the synchronous standby.

    A primary that was replaced cannot: its standbys follow another. With asynchronous
    standbys this proves nothing.
    """
    began = monotonic_now()
    driver.autocommit = True
    driver.execute("SELECT pg_logical_emit_message(true, 'microblog', '')")
    driver.autocommit = False
    driver.proof_ends_at = began + PROOF_SECONDS


def read_clock(driver: psycopg.Connection[Any]) -> None:
    """Set the clock by that of the server, in one round trip."""
    driver.autocommit = True
    asked_at = steady_now()
    row: Any = driver.execute("SELECT clock_timestamp()").fetchone()
    driver.autocommit = False
    set_clock(row[0], asked_at)


class PostgreSQLConnection(psycopg.Connection[Any]):
    """A connection that gives up on a server that does not answer.

    Attributes:
        answer_seconds: how long a statement may take; `None` for no limit.
        tells_time: whether the clock is set by that of its server.
        is_new: whether the pool has not handed it out yet.
        proof_ends_at: until when the server is known to be the primary, on the monotonic
            clock; always where there is one host.
    """

    answer_seconds: float | None = 10
    tells_time = True
    is_new = True
    proof_ends_at = math.inf

    @cached_property
    def cursor_without_session(self) -> psycopg.Cursor[Any]:
        """A cursor for single SELECTs; to make one costs a fifth of such a SELECT."""
        return self.cursor()

    def has_unread_data(self) -> bool:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def rollback(self) -> None:
        """Roll back; where the connection is lost, the server does so by itself."""
        try:
            super().rollback()
        except psycopg.OperationalError:
            if not self.closed:
                raise

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.answer_seconds)
        except psycopg.OperationalError:
            if self.info.transaction_status == TransactionStatus.ACTIVE:
                self.close()  # a late answer must not be taken for that of the next statement
            raise


class ReplicaConnection(PostgreSQLConnection):
    answer_seconds = REPLICA_SECONDS
    tells_time = False


def take_time(connection: sa.Connection) -> None:
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


def connect_to_replica(
    _dialect: sa.Dialect, _entry: ConnectionPoolEntry, args: Any, parameters: Any
) -> PostgreSQLConnection:
    return _connect(ReplicaConnection, args, parameters)


def connect_to_postgresql(
    _dialect: sa.Dialect, _entry: ConnectionPoolEntry, args: Any, parameters: Any
) -> PostgreSQLConnection:
    return _connect(PostgreSQLConnection, args, parameters)


def _connect(kind: type[PostgreSQLConnection], args: Any, parameters: Any) -> PostgreSQLConnection:
    connection = kind.connect(*args, **parameters)
    connection.autocommit = True
    asked_at = steady_now()
    # Times are read in UTC.
    row: Any = connection.execute(
        "SELECT pg_backend_pid(), clock_timestamp() FROM set_config('TimeZone', 'UTC', false)"
    ).fetchone()
    connection.autocommit = False
    if connection.tells_time:
        set_clock(row[1], asked_at)
    if row[0] != connection.info.backend_pid:
        # Behind a pooler such as PgBouncer, which tells each client a number of its own. A
        # statement that one session has prepared may be executed in that of another client.
        connection.prepare_threshold = None
    wanted = parameters.get("target_session_attrs")
    if "," in parameters.get("host", "") and wanted in {"read-write", "primary"}:
        prove_primary(connection)
    return connection
