"""On PostgreSQL, a SELECT of a safe method needs no transaction.

BEGIN and ROLLBACK would be two more round trips, and each SELECT reads what is committed
anyway. A statement that writes begins a transaction, whatever the method.
"""

from functools import lru_cache
from typing import Any

import psycopg
import sqlalchemy as sa
from flask import Flask, has_request_context, request
from psycopg.pq import TransactionStatus

from app.extensions import REPLICA, db
from app.http.headers import SAFE_METHODS


def init_app(app: Flask) -> None:
    with app.app_context():
        for engine in {db.engine, db.engines.get(REPLICA, db.engine)}:
            if engine.dialect.name == "postgresql":
                sa.event.listen(engine, "before_cursor_execute", _begin_unless_it_reads)
                sa.event.listen(engine, "after_cursor_execute", _end_autocommit)


def _begin_unless_it_reads(
    connection: sa.Connection, cursor: Any, statement: str, *_more: Any
) -> None:
    """Turn autocommit on for this statement if it needs no transaction."""
    driver = cursor.connection
    if connection.info.pop("autocommit", False):  # the statement before this one failed
        driver.autocommit = False
    if (
        has_request_context()
        and request.method in SAFE_METHODS
        and driver.info.transaction_status == TransactionStatus.IDLE
        and _only_reads(statement)
        and not isinstance(cursor, psycopg.ServerCursor)  # lives in a transaction
        and not _is_special(connection, driver)
    ):
        driver.autocommit = True
        connection.info["autocommit"] = True


def _end_autocommit(connection: sa.Connection, cursor: Any, *_more: Any) -> None:
    if connection.info.pop("autocommit", False):
        cursor.connection.autocommit = False


@lru_cache
def _only_reads(statement: str) -> bool:
    """Return whether a statement has the form `SELECT ... FROM ...` and locks nothing."""
    words = set(statement.upper().replace("(", " ").split())
    return (
        statement.startswith("SELECT")
        and "FROM" in words
        and words.isdisjoint({"FOR", "INTO"})
        and "pg_advisory" not in statement
    )


def _is_special(connection: sa.Connection, driver: psycopg.Connection) -> bool:
    """Return whether somebody has chosen the kind of the transaction."""
    return (
        "isolation_level" in connection.get_execution_options()
        or driver.isolation_level not in {None, psycopg.IsolationLevel.READ_COMMITTED}
        or bool(driver.read_only or driver.deferrable)
    )
