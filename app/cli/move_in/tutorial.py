"""From the database of a tutorial application: users and their live tokens."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from app.cli.move_in import tutorial_posts  # microblog
from app.cli.move_in.copying import Part, Row, stream
from app.cli.move_in.databases import Source
from app.cli.move_in.names import Names, names_in, new_names, renamed
from app.cli.move_in.values import as_it_is, as_time, why_not
from app.clock import utc_now
from app.models import User
from app.security import tokens

_LIFETIME = timedelta(hours=1)  # of the tutorial's tokens
_NEEDED = {"id", "username", "email", "password_hash"}


def is_source(connection: sa.Connection) -> bool:
    """Return whether it has users of a tutorial application."""
    inspector = sa.inspect(connection)
    if not inspector.has_table("user"):
        return False
    columns = {column["name"]: column["type"] for column in inspector.get_columns("user")}
    return columns.keys() >= _NEEDED and isinstance(columns["id"], sa.Integer)


def parts(source: Source, resolve: Path | None) -> list[Part]:
    """Return what is copied.

    Args:
        source: the tutorial's database.
        resolve: a file with new names for users, see `names.new_names`.

    Raises:
        click.ClickException: some users cannot be copied as they are.
    """
    connection = source.connection
    users = sa.Table("user", sa.MetaData(), autoload_with=connection, resolve_fks=False)
    chosen = new_names(names_in(connection, users), resolve)
    found: list[Part] = [_Users(connection, users, chosen)]
    found += tutorial_posts.parts(connection, users)  # microblog
    _name_what_stays(connection, found)
    return found


def _name_what_stays(connection: sa.Connection, parts: list[Part]) -> None:
    """Say which tables and columns have no place here."""
    inspector = sa.inspect(connection)
    copied = {part.table.name: part for part in parts}
    for name in sorted(inspector.get_table_names()):
        if name not in copied and name != "alembic_version":
            click.echo(f"  not copied: table {name}")
        elif name in copied:
            columns = {column["name"] for column in inspector.get_columns(name)}
            for column in sorted(columns - set(copied[name].names)):
                click.echo(f"  not copied: column {name}.{column}")


class _Users(Part):
    table = User.__table__  # type: ignore[assignment]  # which SQLAlchemy types as FromClause
    names = [  # noqa: RUF012  as in the base class
        *("id", "username", "email", "password_hash", "about_me", "last_seen"),
        *("token", "token_expiration", "token_created", "logged_in_at"),
    ]

    def __init__(
        self, connection: sa.Connection, users: sa.Table, chosen: dict[int, Names]
    ) -> None:
        self._connection, self._chosen = connection, chosen
        self._now = utc_now()  # the same for all passes
        read = self.names[: self.names.index("token_created")]
        columns = [as_it_is(users, name) for name in read]
        self._query = sa.select(*columns).order_by(users.c.id)
        self.estimate = connection.scalar(sa.select(sa.func.count()).select_from(users)) or 0
        self.refused = Counter()
        others = (c for c in self.table.columns if c.nullable and c.name not in self.names)
        column = self.table.c
        is_ended = column.token.is_(None) & column.token_expiration.is_not(None)  # `ENDED`
        is_as_copied = (c.is_(None) for c in others)
        self.untouched = sa.and_(column.roles == [], sa.not_(is_ended), *is_as_copied)

    def rows(self) -> Iterator[Row]:
        self.refused = Counter()
        self._live: set[str] = set()
        self._strange = 0
        for row in stream(self._connection, self._query):
            id, username, email, password_hash, about_me, last_seen, token, expiration = row
            names = renamed(Names(id, username, email), self._chosen)
            if password_hash is not None and why_not(password_hash, 256):
                self.refused["password hashes of another form"] += 1
                password_hash = None
            yield (
                *names,
                password_hash,
                self._shown(about_me),
                as_time(last_seen),
                *self._log_in(token, as_time(expiration)),
            )

    def _shown(self, about_me: Any) -> str | None:
        if not about_me or not why_not(about_me, 140):
            return about_me or None
        self.refused["texts in about_me, or their ends beyond 140 characters"] += 1
        return about_me[:140] if why_not(about_me[:140], 140) is None else None

    def _log_in(self, token: Any, expiration: datetime | None) -> Row:
        """Return the sealed token, and the times of its expiry, its creation and the log in."""
        if not token or expiration is None or expiration <= self._now:
            return (None, None, None, None)
        if not (isinstance(token, str) and tokens.is_of_tutorial(token)) or token in self._live:
            self._strange += 1
            return (None, None, None, None)
        self._live.add(token)
        # A token that lives longer was made in another way, and nobody knows when.
        created = expiration - _LIFETIME if expiration <= self._now + _LIFETIME else None
        return (tokens.seal(token), expiration, created, created)

    def remark(self) -> str:
        remark = f"; {len(self._live):,} are logged in, and stay so"
        if self._strange:
            remark += f"; {self._strange:,} have tokens of another form, and have to log in again"
        return remark
