"""From the database of a tutorial application: posts, and who follows whom."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from app.cli.move_in.copying import Part, Row, stream
from app.cli.move_in.values import as_it_is, as_time, why_not
from app.models import Follow, Post

_UNKNOWN = datetime.fromtimestamp(0, UTC)  # when a post without a time was written


def parts(connection: sa.Connection, users: sa.Table) -> list[Part]:
    """Return the posts and the followers, if the application has such tables."""
    found: list[Part] = []
    kinds = {"post": (_Posts, _Posts.needed), "followers": (_Followers, set(_Followers.names))}
    for name, (kind, needed) in kinds.items():
        if sa.inspect(connection).has_table(name):
            table = sa.Table(name, sa.MetaData(), autoload_with=connection, resolve_fks=False)
            if set(table.c.keys()) >= needed:
                found.append(kind(connection, users, table))
    return found


class _OfUsers(Part):
    """Rows that refer to users, who may be missing: SQLite does not check it by itself."""

    def __init__(self, connection: sa.Connection, users: sa.Table, table: sa.Table) -> None:
        self._connection, self._users, self._source = connection, users, table
        self.estimate = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        self.refused = Counter()

    def is_user(self, column: sa.Column[Any]) -> sa.ColumnElement[bool]:
        return sa.exists().where(self._users.c.id == column)

    def count_refused(self, reason: str, criterion: sa.ColumnElement[bool]) -> None:
        query = sa.select(sa.func.count()).select_from(self._source).where(criterion)
        number = self._connection.scalar(query)
        if number:
            self.refused[reason] = number


class _Posts(_OfUsers):
    table = Post.__table__  # type: ignore[assignment]  # which SQLAlchemy types as FromClause
    names = ["id", "body", "timestamp", "user_id"]  # noqa: RUF012  as in the base class
    needed = {"id", "body", "user_id"}  # noqa: RUF012  likewise

    def rows(self) -> Iterator[Row]:
        post = self._source.c
        self.refused = Counter()
        has_author = self.is_user(post.user_id)
        self.count_refused("without an author", sa.not_(has_author))
        query = sa.select(*(as_it_is(self._source, name) for name in self.names)).where(has_author)
        longest = self.table.c.body.type.length  # type: ignore[attr-defined]  # SQLAlchemy types it as FromClause
        for id, body, timestamp, user_id in stream(self._connection, query.order_by(post.id)):
            reason = why_not(body, longest)
            if reason is None:
                yield id, body, as_time(timestamp) or _UNKNOWN, user_id
            else:
                self.refused[f"whose text {reason}"] += 1


class _Followers(_OfUsers):
    table = Follow.__table__  # type: ignore[assignment]  # which SQLAlchemy types as FromClause
    names = ["follower_id", "followed_id"]  # noqa: RUF012  as in the base class

    def rows(self) -> Iterator[Row]:
        follower_id, followed_id = (self._source.c[name] for name in self.names)
        self.refused = Counter()
        are_users = sa.and_(self.is_user(follower_id), self.is_user(followed_id))
        self.count_refused("of users who are not there", sa.not_(are_users))
        self.count_refused("of users by themselves", are_users & (follower_id == followed_id))
        query = (
            sa.select(follower_id, followed_id)
            .where(are_users, follower_id != followed_id)
            .distinct()  # editions before 2024 have no primary key
            .order_by(follower_id, followed_id)
        )
        yield from stream(self._connection, query)
