"""Who follows whom."""

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.extensions import Model, db, insert, rows_changed
from app.models.errors import FollowsOneselfError, OutdatedError
from app.models.page import Page, paged
from app.models.user import User


class Follow(Model):
    __tablename__ = "followers"  # the tutorial's

    follower_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id"), primary_key=True)
    followed_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id"), primary_key=True)

    @staticmethod
    def begin(follower_id: int, followed_id: int) -> None:
        """One user follows another from now on; nothing happens if they do already.

        Raises:
            FollowsOneselfError: both are the same.
            OutdatedError: one of them has just been deactivated; the session is
                rolled back.
        """
        if follower_id == followed_id:
            raise FollowsOneselfError
        row = insert(Follow).values(follower_id=follower_id, followed_id=followed_id)
        if rows_changed(row.on_conflict_do_nothing()):
            _count(follower_id, followed_id, 1)

    @staticmethod
    def end(follower_id: int, followed_id: int) -> None:
        """One user follows another no longer; nothing happens if they did not.

        Raises:
            OutdatedError: as in `begin`.
        """
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
        active = sa.update(User).where(User.id == user_id, User.deactivated_at.is_(None))
        if not rows_changed(active.values(columns[user_id])):
            db.session.rollback()
            raise OutdatedError


# The primary key finds whom a user follows; this finds who follows them.
sa.Index("ix_followers_followed_id", Follow.followed_id, Follow.follower_id)

_USER_ID = sa.bindparam("user_id", type_=sa.BigInteger)
_FOLLOWERS = paged(
    sa.select(User)
    .join(Follow, Follow.follower_id == User.id)
    .where(Follow.followed_id == _USER_ID, User.deactivated_at.is_(None))
    .order_by(Follow.follower_id)
)
_FOLLOWED = paged(
    sa.select(User)
    .join(Follow, Follow.followed_id == User.id)
    .where(Follow.follower_id == _USER_ID, User.deactivated_at.is_(None))
    .order_by(Follow.followed_id)
)
