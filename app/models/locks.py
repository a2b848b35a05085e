"""Locks of users: whoever writes as a user holds one, and whoever takes rights away waits for it.

Until the commit. They are advisory locks and no locks of rows: those are not granted in the order
in which they are asked for, so that a stream of writers could keep out the owner who changes the
password. SQLite has one writer at a time.
"""

from typing import Any

import sqlalchemy as sa

from app.extensions import db

# The locks of all users have two numbers, which no lock of one user has. Each who takes that of a
# user takes a share in it first, so that nobody who waits for all stands between two others.
_SHARE_OF_ALL = "pg_advisory_xact_lock_shared(0, 0)"
_WRITE = sa.text(f"SELECT {_SHARE_OF_ALL}, pg_advisory_xact_lock_shared(:key)")
_WAIT = sa.text(f"SELECT {_SHARE_OF_ALL}, pg_advisory_xact_lock(:key)")
_WAIT_FOR_ALL = sa.text("SELECT pg_advisory_xact_lock(0, 0)")


def write_as(user_id: int) -> None:
    """Make those who call `wait_for_writers` wait for this transaction."""
    _lock(_WRITE, key=_key(user_id))


def wait_for_writers(user_id: int, by: int | None = None) -> None:
    """Wait for all transactions that write as this user; keep later ones waiting.

    Whatever takes away the rights of a user calls it first.

    Args:
        user_id: of that user.
        by: id of another user who does it. Both are locked, the lower id first: two who do
            it to each other would otherwise wait for each other.
    """
    for id in sorted({user_id, user_id if by is None else by}):
        _lock(_WAIT, key=_key(id))


def wait_for_all_writers() -> None:
    """Do the same for all users. Call it before any other lock is taken."""
    _lock(_WAIT_FOR_ALL)


def _key(user_id: int) -> int:
    return -user_id  # the migrations and other programs use positive ones


def _lock(statement: sa.TextClause, **parameters: int) -> None:
    # Not through the session: its writes trigger a check, which comes here.
    connection = db.session.connection()
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    connection.execute(statement, parameters)
