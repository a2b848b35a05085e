"""How a connection to PostgreSQL is opened, checked before it is used, and given up."""

import math
import select
from functools import cached_property
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from sqlalchemy.pool import ConnectionPoolEntry

from app.clock import clock_is_outdated, monotonic_now, set_clock, steady_now

REPLICA_SECONDS = 1  # for an answer or a free connection; then the primary is asked
# A primary of several hosts may have been replaced without knowing it, after it was frozen. A
# statement begins within 5 s of the last proof, and may take 10: nobody takes over so soon.
PROOF_SECONDS = 5


def use_primary(engine: sa.Engine) -> None:
    sa.event.listen(engine, "do_connect", connect_to_primary)
    sa.event.listen(engine, "checkout", check_connection)
    sa.event.listen(engine, "handle_error", leave_read_only_server)


def use_replica(engine: sa.Engine) -> None:
    sa.event.listen(engine, "do_connect", connect_to_replica)
    sa.event.listen(engine, "checkout", check_connection)


def connect_args(url: sa.URL, connect_seconds: int) -> dict[str, Any]:
    """Return parameters of the connection, other than those that the URL itself has.

    Args:
        url: of the database.
        connect_seconds: to wait for each host.
    """
    parameters = {
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
    return {k: v for k, v in parameters.items() if k not in url.query}


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


def connect_to_replica(
    _dialect: sa.Dialect, _entry: ConnectionPoolEntry, args: Any, parameters: Any
) -> PostgreSQLConnection:
    return _connect(ReplicaConnection, args, parameters)


def connect_to_primary(
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


def check_connection(
    driver: PostgreSQLConnection, _entry: ConnectionPoolEntry, _proxy: Any
) -> None:
    """Have the pool replace a connection that the server has ended, before it is used.

    `pool_pre_ping` would take a round trip for it. Whatever has arrived since the last
    answer counts as the end; it may also be a notice, which is rare. A host that is gone
    is noticed by keep-alive, see `connect_args`.
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


def prove_primary(driver: PostgreSQLConnection) -> None:
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
