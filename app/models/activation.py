"""Deactivate a user and activate them again: nothing is deleted, and the name stays taken.

A module that keeps counts of users adds itself to `before_switch` and `after_switch`,
so that the counts leave deactivated users out.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from app.clock import utc_now
from app.extensions import db, rows_changed
from app.models.locks import wait_for_writers
from app.models.login import ENDED
from app.models.total import Total
from app.models.user import User, revoke_rows

# Called before the user is locked, to take locks of tables that come first.
before_switch: list[Callable[[], None]] = []
# Called with the user's id and +1 (activated) or -1 (deactivated).
after_switch: list[Callable[[int, int], None]] = []


def deactivate(user: User, by: int | None = None) -> bool:
    """End the tokens of a user and hide the user from every route; return whether it was active.

    Args:
        user: who is deactivated.
        by: id of the administrator who does it; `None` for the user, and for commands.
    """
    values = {"deactivated_at": utc_now(), **ENDED}
    was_active = _switch(user, User.deactivated_at.is_(None), values, -1, by)
    revoke_rows(user.id)
    return was_active


def activate(user: User, by: int | None = None) -> bool:
    """Undo `deactivate`, except for the ended tokens; return whether the user was inactive."""
    return _switch(user, User.deactivated_at.is_not(None), {"deactivated_at": None}, 1, by)


def _switch(
    user: User,
    current: sa.ColumnElement[bool],
    values: dict[str, Any],
    change: int,
    by: int | None,
) -> bool:
    for take_locks in before_switch:
        take_locks()
    wait_for_writers(user.id, by)
    update = sa.update(User).where(User.id == user.id, current).values(values)
    if not rows_changed(update.execution_options(synchronize_session=False)):
        return False
    for count in after_switch:
        count(user.id, change)
    db.session.execute(Total.addition("user", change))
    db.session.expire(user)
    return True
