"""Stored counts, put right: changes by SQL, or in bulk, leave them as they were.

A module that stores counts of users adds each to `OF_USERS`.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.extensions import db, remove_timeout
from app.models.total import Total
from app.models.user import User

BATCH = 1000  # users whose rows are changed in one transaction

# The column of `User`, and the query that counts for the row of a user.
OF_USERS: dict[so.InstrumentedAttribute[int], sa.ScalarSelect[Any]] = {}
# Called before rows of users are changed, to take locks of tables that come first.
before_users: list[Callable[[], None]] = []


def recount() -> int:
    """Put all stored counts right; return how many rows were wrong.

    Commits, also what the session has written before. Right while others write: each changes
    a count in the transaction that changes what is counted, so the difference of the two,
    read by one statement, stays the same until it is added here.
    """
    db.session.flush()
    wrong = _recount_totals()
    last = -(2**63)  # a copied user may have any id
    while OF_USERS:
        ids, differences = _compare_users(last)
        if not ids:
            break
        if differences:
            _add_to_users(differences)
        db.session.commit()
        wrong += len(differences)
        last = ids[-1]
    db.session.commit()
    db.session.expire_all()  # objects may have the former counts
    return wrong


def _recount_totals() -> int:
    wrong = 0
    for name, model in Total.kept.items():
        _begin()
        number = Total.count(model).scalar_subquery()
        query = sa.select(number - Total.value).where(Total.name == name)
        difference: int = db.session.scalars(query).one()
        if difference:
            db.session.execute(Total.addition(name, difference))
        db.session.commit()
        wrong += difference != 0
    return wrong


def _compare_users(after: int) -> tuple[list[int], list[dict[str, int]]]:
    """Return the ids of the users that follow this one, and what to add to the wrong counts."""
    _begin()
    differences = [
        (count - column).label(f"add_to_{column.key}") for column, count in OF_USERS.items()
    ]
    query = sa.select(User.id.label("user_id"), *differences).where(User.id > after)
    rows = db.session.execute(query.order_by(User.id).limit(BATCH)).mappings().all()
    wrong = [dict(row) for row in rows if any(row[column] for column in differences)]
    return [row["user_id"] for row in rows], wrong


def _add_to_users(differences: list[dict[str, int]]) -> None:
    for take_locks in before_users:
        take_locks()
    values = {column: column + sa.bindparam(f"add_to_{column.key}") for column in OF_USERS}
    update = sa.update(User).where(User.id == sa.bindparam("user_id")).values(values)
    db.session.connection().execute(update, differences)


def _begin() -> None:
    """Begin a transaction that may take its time, and that waits for another recount."""
    connection = db.session.connection()
    remove_timeout(connection)
    if connection.dialect.name == "postgresql":
        # In conflict with nothing but itself.
        connection.exec_driver_sql("LOCK TABLE total IN SHARE UPDATE EXCLUSIVE MODE")
        return
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
