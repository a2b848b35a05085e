"""The Flask extensions, created without an application, and how each database is opened."""

import sqlite3
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from psycopg.pq import TransactionStatus
from sqlalchemy.orm import DeclarativeBase

if TYPE_CHECKING:
    from flask_sqlalchemy.model import Model as Model  # noqa: PLC0414  mypy needs a static base
    from sqlalchemy.pool import ConnectionPoolEntry


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


db = SQLAlchemy(model_class=Base)
if not TYPE_CHECKING:
    Model = db.Model
# Without batch mode, which on SQLite copies a table and loses its indexes on expressions.
migrate = Migrate(render_as_batch=False)


def engine_options(uri: str, threads: int) -> dict[str, Any]:
    """Keyword arguments of `sqlalchemy.create_engine` for the database at `uri`.

    Args:
        uri: a SQLite or PostgreSQL URL.
        threads: how many threads of one process use the database at once.
    """
    url = sa.make_url(uri)
    if url.get_backend_name() == "sqlite":
        return {
            "connect_args": {
                # A writer takes the lock with its first statement. One that
                # reads, then writes in a deferred transaction fails at once
                # when somebody else wrote in between, however long it may wait.
                "isolation_level": "IMMEDIATE",
                "timeout": 10,  # seconds a writer waits for its turn
            }
        }
    connect_args = {
        "connect_timeout": 3,  # seconds
        # A host that is gone sends nothing back: give up after 10 s (given in
        # milliseconds), and probe a connection that was idle for 10 s.
        "tcp_user_timeout": 10_000,
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
    }
    return {
        "pool_size": threads,
        "pool_timeout": 5,  # seconds
        "pool_pre_ping": True,  # a restarted server is noticed before a request is lost to it
        # What the URL itself says wins.
        "connect_args": {k: v for k, v in connect_args.items() if k not in url.query},
    }


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


@sa.event.listens_for(sa.Engine, "do_connect")
def connect_to_postgresql(
    dialect: sa.Dialect, _entry: "ConnectionPoolEntry", args: Any, parameters: Any
) -> PostgreSQLConnection | None:
    if dialect.name != "postgresql":
        return None
    return PostgreSQLConnection.connect(*args, **parameters)


@sa.event.listens_for(sa.pool.Pool, "connect")
def configure_sqlite(connection: Any, _entry: "ConnectionPoolEntry") -> None:
    if not isinstance(connection, sqlite3.Connection):
        return
    connection.execute(
        "PRAGMA journal_mode = WAL"
    )  # readers and a writer do not wait for each other
    connection.execute("PRAGMA synchronous = FULL")  # what was acknowledged survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")
