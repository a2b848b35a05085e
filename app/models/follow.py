"""Who follows whom."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.extensions import Model, db, insert, rows_changed
from app.models import activation, counts
from app.models.errors import OutdatedError
from app.models.page import Page, paged
from app.models.user import User

F = TypeVar("F", bound=Callable[..., Any])


class FollowsOneselfError(Exception):
    """Users cannot follow themselves; their own posts are in their feed anyway."""


class Follow(Model):
    __tablename__ = "followers"  # the tutorial's

    follower_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id"), primary_key=True)
    followed_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id"), primary_key=True)

    @staticmethod
    def begin(follower_id: int, followed_id: int) -> None:
        """Let one user follow another; no error if they do already.

        Raises:
            FollowsOneselfError: both are the same.
            OutdatedError: one of them was deactivated meanwhile; the session is
                rolled back.
        """
        if follower_id == followed_id:
            raise FollowsOneselfError
        _lock_table("ROW EXCLUSIVE")
        row = insert(Follow).values(follower_id=follower_id, followed_id=followed_id)
        if rows_changed(row.on_conflict_do_nothing()):
            _count(follower_id, followed_id, 1)

    @staticmethod
    def end(follower_id: int, followed_id: int) -> None:
        """Let one user no longer follow another; no error if they did not.

        Raises:
            OutdatedError: as in `begin`.
        """
        _lock_table("ROW EXCLUSIVE")
        pair = (Follow.follower_id == follower_id, Follow.followed_id == followed_id)
        if rows_changed(sa.delete(Follow).where(*pair)):
            _count(follower_id, followed_id, -1)

    @staticmethod
    def followers_of(user: User, page: int, per_page: int) -> Page:
        """Return a page of the followers of `user`, by ascending id."""
        return Page.of(_FOLLOWERS, page, per_page, user.follower_count, user_id=user.id)

    @staticmethod
    def followed_by(user: User, page: int, per_page: int) -> Page:
        """Return a page of the users that `user` follows, by ascending id."""
        return Page.of(_FOLLOWED, page, per_page, user.followed_count, user_id=user.id)


def _lock_table(mode: str) -> None:
    """Lock the table before any row (PostgreSQL); `activation` takes the same lock first.

    Otherwise two transactions could wait for each other. No effect on SQLite, which
    has one writer at a time.
    """
    if db.engine.dialect.name == "postgresql":
        db.session.connection().execute(sa.text(f"LOCK TABLE followers IN {mode} MODE"))


def _count_switched(user_id: int, change: int) -> None:
    """Count the followers and the followed of a user who was activated or deactivated."""
    update = sa.update(User).execution_options(synchronize_session=False)
    followers = sa.select(Follow.follower_id).where(Follow.followed_id == user_id)
    followed = sa.select(Follow.followed_id).where(Follow.follower_id == user_id)
    for ids, count in ((followers, User.followed_count), (followed, User.follower_count)):
        db.session.execute(update.where(User.id.in_(ids)).values({count: count + change}))


# While a user is switched, others neither follow nor unfollow: the rows that are
# counted stay as they are.
activation.before_switch.append(partial(_lock_table, "SHARE ROW EXCLUSIVE"))
activation.after_switch.append(_count_switched)

# A recount and a switch wait for each other.
counts.before_users.append(partial(_lock_table, "ROW EXCLUSIVE"))


def _counted(
    id: sa.SQLColumnExpression[int], other_id: sa.SQLColumnExpression[int]
) -> sa.ScalarSelect[int]:
    """Return the query of how many active users `other_id` are paired with a user's `id`."""
    other = so.aliased(User)
    query = sa.select(sa.func.count()).select_from(Follow).join(other, other.id == other_id)
    is_counted = id == User.id, other.deactivated_at.is_(None)
    return query.where(*is_counted).correlate(User).scalar_subquery()


def _count(follower_id: int, followed_id: int, change: int) -> None:
    columns = {
        follower_id: {User.followed_count: User.followed_count + change},
        followed_id: {User.follower_count: User.follower_count + change},
    }
    # The lower id first: two users who follow each other at the same moment
    # would otherwise wait for each other's row.
    for user_id in sorted(columns):
        active = sa.update(User).where(User.id == user_id, User.deactivated_at.is_(None))
        if not rows_changed(active.values(columns[user_id])):
            db.session.rollback()
            raise OutdatedError


counts.OF_USERS[User.follower_count] = _counted(Follow.followed_id, Follow.follower_id)
counts.OF_USERS[User.followed_count] = _counted(Follow.follower_id, Follow.followed_id)

# The primary key finds whom a user follows; this finds who follows them.
sa.Index("ix_followers_followed_id", Follow.followed_id, Follow.follower_id)

# -- Methods of `User`, as the tutorial has them ---------------------------------------


def method_of_user(function: F) -> F:
    setattr(User, function.__name__, function)
    return function


@method_of_user
def follow(self: User, user: User) -> None:
    """Follow a user; raises as `Follow.begin` does."""
    db.session.flush()  # a new user has no id before
    Follow.begin(self.id, user.id)


@method_of_user
def unfollow(self: User, user: User) -> None:
    """Do not follow a user any more; raises as `Follow.end` does."""
    db.session.flush()
    Follow.end(self.id, user.id)


@method_of_user
def is_following(self: User, user: User) -> bool:
    pair = (Follow.follower_id == self.id, Follow.followed_id == user.id)
    return db.session.scalar(sa.select(Follow.followed_id).where(*pair)) is not None


@method_of_user
def followers_count(self: User) -> int:
    """Return the number of active followers."""
    return stored_count(self, User.follower_count)


@method_of_user
def following_count(self: User) -> int:
    """Return the number of active users whom this one follows."""
    return stored_count(self, User.followed_count)


def stored_count(user: User, column: so.InstrumentedAttribute[int]) -> int:
    return db.session.scalars(sa.select(column).where(User.id == user.id)).one()


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
