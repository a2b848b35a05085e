"""A post, and the streams of posts: newest first, from a given id on."""

from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.clock import utc_now
from app.extensions import Model, db, rows_changed
from app.models import counts
from app.models.columns import BigId, UTCDateTime
from app.models.follow import Follow, method_of_user, stored_count
from app.models.user import User


class Post(Model):
    # SQLite would give the number of a deleted post to the next one.
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  as SQLAlchemy has it

    id: so.Mapped[int] = so.mapped_column(BigId, primary_key=True)
    body: so.Mapped[str] = so.mapped_column(sa.String(140))
    timestamp: so.Mapped[datetime] = so.mapped_column(UTCDateTime, default=utc_now)
    user_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id"))

    author: so.Mapped[User] = so.relationship(lazy="joined", innerjoin=True)

    def __repr__(self) -> str:
        return f"<Post {self.body}>"

    @classmethod
    def publish(cls, author: User, body: str) -> Self:
        """Return a new post with an id, not committed."""
        post = cls(author=author, body=body)
        db.session.add(post)
        db.session.flush()
        return post

    def withdraw(self) -> None:
        """Delete the post; no error if another request has just done so."""
        if rows_changed(sa.delete(Post).where(Post.id == self.id)):
            _count(db.session.connection(), self, -1)

    @staticmethod
    def find(id: int) -> "Post | None":
        """Return the post with this id; `None` if there is none, or its author is deactivated."""
        post = db.session.get(Post, id)
        return post if post is not None and post.author.deactivated_at is None else None

    # Each of these returns up to `count` posts with an id below `before`, in one SELECT.

    @staticmethod
    def of_everybody(before: int | None, count: int) -> list["Post"]:
        return _read(_ALL, before, count)

    @staticmethod
    def of_user(user_id: int, before: int | None, count: int) -> list["Post"]:
        return _read(_OF_USER, before, count, user_id=user_id)

    @staticmethod
    def feed_of(user_id: int, before: int | None, count: int) -> list["Post"]:
        """Posts of the user and of those they follow."""
        return _read(_FEED[db.engine.dialect.name], before, count, user_id=user_id)


class _PostsOf:
    """What the tutorial has as a relationship; one would cost each request that reads a user."""

    def __init__(self, user: User) -> None:
        self._user = user

    def select(self) -> sa.Select[Any]:
        return sa.select(Post).where(Post.user_id == self._user.id)


User.posts = property(_PostsOf)


@method_of_user
def posts_count(self: User) -> int:
    return stored_count(self, User.post_count)


@method_of_user
def following_posts(self: User) -> sa.Select[Any]:
    """Return the query of the user's posts and those of active users they follow, newest first.

    As in the tutorial. `Post.feed_of` does not slow down as posts become more.
    """
    followed = sa.select(Follow.followed_id).where(Follow.follower_id == self.id)
    is_theirs = Post.user_id.in_(followed) & Post.author.has(User.is_active())
    query = sa.select(Post).where(is_theirs | (Post.user_id == self.id))
    return query.order_by(Post.timestamp.desc(), Post.id.desc())


# For a user's newest posts.
sa.Index("ix_post_user_id", Post.user_id, Post.id)


counts.OF_USERS[User.post_count] = (
    sa.select(sa.func.count()).where(Post.user_id == User.id).correlate(User).scalar_subquery()
)


def _count(connection: sa.Connection, post: Post, change: int) -> None:
    values = {User.post_count: User.post_count + change}
    connection.execute(sa.update(User).where(User.id == post.user_id).values(values))
    author = vars(post).get("author")
    known = None if author is None else vars(author).get("post_count")
    if known is not None:  # not deferred
        so.attributes.set_committed_value(author, "post_count", known + change)


# What a session adds or deletes is counted; statements of SQL are not.
sa.event.listen(Post, "after_insert", lambda _, connection, post: _count(connection, post, 1))
sa.event.listen(Post, "after_delete", lambda _, connection, post: _count(connection, post, -1))


def _read(query: sa.Select[Any], before: int | None, count: int, **values: Any) -> list[Post]:
    values |= {"before": 2**63 - 1 if before is None else before, "count": count}
    return list(db.session.scalars(query, values))


_USER_ID, _BEFORE, _COUNT = (
    sa.bindparam(name, type_=sa.BigInteger) for name in ("user_id", "before", "count")
)


def _newest(*criteria: sa.ColumnElement[bool]) -> sa.Select[Any]:
    # Only the author's columns that a stream shows; not the password hash.
    author = so.joinedload(Post.author, innerjoin=True)
    return (
        sa.select(Post)
        .options(author.load_only(User.id, User.username, User.email))
        .where(Post.id < _BEFORE, *criteria)
        .order_by(Post.id.desc())
        .limit(_COUNT)
    )


def _of_everybody() -> sa.Select[Any]:
    """Return the query of the newest posts by active authors.

    The ids are chosen before the authors are joined: PostgreSQL could begin the join
    with all users. Posts of deactivated authors are skipped one by one.
    """
    post = so.aliased(Post)
    deactivated_at = (
        sa.select(User.deactivated_at).where(User.id == post.user_id).correlate(post)
    ).scalar_subquery()
    chosen = (
        sa.select(post.id)
        .where(post.id < _BEFORE, deactivated_at.is_(None))
        .order_by(post.id.desc())
        .limit(_COUNT)
    )
    return _newest(Post.id.in_(chosen))


def _feed(dialect_name: str) -> sa.Select[Any]:
    """Return the query of the newest posts of each author, and of those the newest.

    Its cost grows with the number of authors that the user follows, not with the
    number of posts.
    """
    authors = sa.union_all(
        sa.select(_USER_ID.label("id")),
        sa.select(Follow.followed_id)
        .join(User, User.id == Follow.followed_id)
        .where(Follow.follower_id == _USER_ID, User.deactivated_at.is_(None)),
    ).subquery("authors")
    candidate = so.aliased(Post)
    newest_of_author = (
        sa.select(candidate.id)
        .where(candidate.user_id == authors.c.id, candidate.id < _BEFORE)
        .order_by(candidate.id.desc())
        .limit(_COUNT)
        .correlate(authors)
    )
    if dialect_name == "postgresql":
        # Its planner would run a correlated IN for every post.
        of_each = newest_of_author.lateral("newest")
        ids = sa.select(of_each.c.id).select_from(sa.join(authors, of_each, sa.true()))
    else:
        # SQLite has no LATERAL. Everything from the oldest of them on: the index alone
        # answers that, where an IN would read each post.
        newest = newest_of_author.subquery()
        oldest = sa.select(sa.func.min(newest.c.id)).correlate(authors).scalar_subquery()
        own = so.aliased(Post)
        range_ = own.user_id == authors.c.id, own.id < _BEFORE, own.id >= oldest
        ids = sa.select(own.id).select_from(sa.join(authors, own, sa.and_(*range_)))
    candidates = ids.subquery()
    chosen = sa.select(candidates.c.id).order_by(candidates.c.id.desc()).limit(_COUNT)
    return _newest(Post.id.in_(chosen))  # only these are read whole


_ALL = _of_everybody()
_OF_USER = _newest(Post.user_id == _USER_ID)
_FEED = {name: _feed(name) for name in ("sqlite", "postgresql")}
