"""Who follows whom."""

from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so
from sqlalchemy.dialects import postgresql, sqlite

from app.extensions import Model, db, rows_changed
from app.models.page import Page, paged
from app.models.user import User


class FollowsOneselfError(Exception):
    """Nobody may follow themselves: one's own posts are in one's feed anyway."""


class Follow(Model):
    __tablename__ = "followers"  # the tutorial's

    follower_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id"), primary_key=True)
    followed_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id"), primary_key=True)

    @staticmethod
    def begin(follower_id: int, followed_id: int) -> None:
        """One user follows another from now on; nothing happens if they do already.

        Raises:
            FollowsOneselfError: both are the same.
        """
        if follower_id == followed_id:
            raise FollowsOneselfError
        insert = _INSERT[db.engine.dialect.name](Follow.__table__).on_conflict_do_nothing()
        values = {"follower_id": follower_id, "followed_id": followed_id}
        if rows_changed(insert.values(values)):
            _count(follower_id, followed_id, 1)

    @staticmethod
    def end(follower_id: int, followed_id: int) -> None:
        """One user follows another no longer; nothing happens if they did not."""
        pair = (Follow.follower_id == follower_id, Follow.followed_id == followed_id)
        if rows_changed(sa.delete(Follow).where(*pair)):
            _count(follower_id, followed_id, -1)

    @staticmethod
    def followers_of(user: User, page: int, per_page: int) -> Page:
        """Those who follow `user`, by ascending id."""
        return Page.of(_FOLLOWERS, page, per_page, user.follower_count, user_id=user.id)

    @staticmethod
    def followed_by(user: User, page: int, per_page: int) -> Page:
        """Those whom `user` follows, by ascending id."""
        return Page.of(_FOLLOWED, page, per_page, user.following_count, user_id=user.id)


def _count(follower_id: int, followed_id: int, change: int) -> None:
    columns = {
        follower_id: {User.following_count: User.following_count + change},
        followed_id: {User.follower_count: User.follower_count + change},
    }
    # The lower id first: two users who follow each other at the same moment
    # would otherwise wait for each other's row.
    for user_id in sorted(columns):
        db.session.execute(sa.update(User).where(User.id == user_id).values(columns[user_id]))


# The primary key finds whom a user follows; this finds who follows them.
sa.Index("ix_followers_followed_id", Follow.followed_id, Follow.follower_id)

# Both have an ON CONFLICT, which SQLAlchemy's own INSERT has not.
_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

_USER_ID = sa.bindparam("user_id", type_=sa.BigInteger)
_FOLLOWERS = paged(
    sa.select(User)
    .join(Follow, Follow.follower_id == User.id)
    .where(Follow.followed_id == _USER_ID)
    .order_by(Follow.follower_id)
)
_FOLLOWED = paged(
    sa.select(User)
    .join(Follow, Follow.followed_id == User.id)
    .where(Follow.follower_id == _USER_ID)
    .order_by(Follow.followed_id)
)
