"""All users, deactivated ones included, for administrators.

The cost of a search grows with the users that it finds, and not with all users: it looks for
the beginning of a user name or an address, which the unique indexes on `lower()` find. A
search for any part of them would read the whole table.
"""

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.extensions import db
from app.models.page import Page, paged
from app.models.total import Total
from app.models.user import User

_LAST_CHARACTER = "\U0010ffff"  # of Unicode: what begins with a text lies before it
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def page_of_everybody(page: int, per_page: int, search: str | None = None) -> Page:
    """Return a page of users by ascending id.

    Args:
        page: its number, from 1.
        per_page: how many users it has.
        search: how the user name or the e-mail address begins, in any case.
    """
    if search is None:
        # The total counts the active ones. The comparison makes the partial index usable.
        hidden = sa.select(sa.func.count(User.id)).where(User.deactivated_at > _LONG_AGO)
        total = Total.of("user") + db.session.scalars(hidden).one()
        return Page.of(_EVERYBODY, page, per_page, total)
    count, ids = _search(db.engine.dialect.name)
    values = {"first": search, "last": search + _LAST_CHARACTER}
    found = Page.of(ids, page, per_page, db.session.scalars(count, values).one(), **values)
    users = sa.select(User).where(User.id.in_(found.items)).order_by(User.id)
    return replace(found, items=db.session.scalars(users).all() if found.items else [])


@cache
def _search(dialect: str) -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Return the queries for the number of users found, and for a page of their ids."""
    # Those of PostgreSQL compare bytes, as the indexes do (`text_pattern_ops`); the others
    # go by the language of the database, in which "a-b" may not begin with "a-".
    from_, before = ("~>=~", "~<~") if dialect == "postgresql" else (">=", "<")
    first, last = (sa.func.lower(sa.bindparam(name, type_=sa.String)) for name in ("first", "last"))
    found = sa.union(
        *(
            sa.select(User.id).where(
                sa.func.lower(column).op(from_, is_comparison=True)(first),
                sa.func.lower(column).op(before, is_comparison=True)(last),
            )
            for column in (User.username, User.email)
        )
    ).subquery()
    count = sa.select(sa.func.count()).select_from(found)
    return count, paged(sa.select(found.c.id).order_by(found.c.id))


_EVERYBODY = paged(sa.select(User).order_by(User.id))
