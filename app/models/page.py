"""A page of a collection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.extensions import db


@dataclass(frozen=True)
class Page:
    """One page of a collection.

    Attributes:
        number: of this page, from 1.
        total: how many items the whole collection has.
    """

    items: Sequence[Any]
    number: int
    per_page: int
    total: int

    @property
    def pages(self) -> int:
        return -(-self.total // self.per_page)

    @property
    def next_number(self) -> int | None:
        return self.number + 1 if self.number < self.pages else None

    @property
    def prev_number(self) -> int | None:
        return self.number - 1 if self.number > 1 else None

    @staticmethod
    def of(query: sa.Select[Any], number: int, per_page: int, total: int, **values: Any) -> "Page":
        """Run a query made with `paged`: one SELECT, or none past the end."""
        offset = (number - 1) * per_page
        if offset >= total:  # the database would walk through all rows before it
            return Page([], number, per_page, total)
        values |= {"limit": per_page, "offset": offset}
        return Page(db.session.scalars(query, values).all(), number, per_page, total)

    @staticmethod
    def of_list(items: Sequence[Any], page: int, per_page: int) -> "Page":
        """Return a page of a few items that are all in memory."""
        begin = (page - 1) * per_page
        return Page(items[begin : begin + per_page], page, per_page, len(items))


def paged(query: sa.Select[Any]) -> sa.Select[Any]:
    """Return `query` with a limit and an offset that `Page.of` fills in."""
    limit, offset = (sa.bindparam(name, type_=sa.BigInteger) for name in ("limit", "offset"))
    return query.limit(limit).offset(offset)
