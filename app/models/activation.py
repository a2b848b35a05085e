"""Taking a user off every route, and back on: nothing is deleted, and their name stays taken.

The counts of others leave out those who are deactivated, as their lists do. A
user's own rows, posts and followers among them, stay as they are.
"""

from typing import Any

import sqlalchemy as sa

from app.columns import utc_now
from app.extensions import db, rows_changed
from app.models.access_token import AccessToken
from app.models.follow import Follow
from app.models.total import Total
from app.models.user import User


def deactivate(user: User) -> bool:
    """Ends the user's tokens and takes them off every route; whether they were there until now."""
    values = {"deactivated_at": utc_now(), "token": None, "token_expiration": None}
    was_active = _switch(user, User.deactivated_at.is_(None), values, -1)
    AccessToken.revoke_all_of(user.id)
    return was_active


def activate(user: User) -> bool:
    """Puts a deactivated user back, with everything they had; whether they were deactivated."""
    return _switch(user, User.deactivated_at.is_not(None), {"deactivated_at": None}, 1)


def _switch(
    user: User, current: sa.ColumnElement[bool], values: dict[str, Any], change: int
) -> bool:
    if db.engine.dialect.name == "postgresql":
        # Who begins or ceases to follow meanwhile waits, and so does another who is
        # deactivated: the rows that are counted below stay as they are.
        db.session.execute(sa.text("LOCK TABLE followers IN SHARE ROW EXCLUSIVE MODE"))
    update = sa.update(User).execution_options(synchronize_session=False)
    if not rows_changed(update.where(User.id == user.id, current).values(values)):
        return False
    followers = sa.select(Follow.follower_id).where(Follow.followed_id == user.id)
    followed = sa.select(Follow.followed_id).where(Follow.follower_id == user.id)
    for ids, count in ((followers, User.following_count), (followed, User.follower_count)):
        db.session.execute(update.where(User.id.in_(ids)).values({count: count + change}))
    db.session.execute(Total.change("user", change))
    db.session.expire(user)
    return True
