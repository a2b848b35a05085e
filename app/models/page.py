"""A page of a collection, and how many rows a table has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.extensions import Model, db


@dataclass(frozen=True)
class Page:
    """Some of a collection's items.

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
        """Runs a query made with `paged`: one SELECT whatever the page holds, none past the end."""
        offset = (number - 1) * per_page
        if offset >= total:  # the database would count its way there
            return Page([], number, per_page, total)
        values |= {"limit": per_page, "offset": offset}
        return Page(db.session.scalars(query, values).all(), number, per_page, total)


def paged(query: sa.Select[Any]) -> sa.Select[Any]:
    """`query` with a limit and an offset that `Page.of` fills in."""
    limit, offset = (sa.bindparam(name, type_=sa.BigInteger) for name in ("limit", "offset"))
    return query.limit(limit).offset(offset)


class Total(Model):
    """How many rows a table has, kept where they change: counting a million takes too long."""

    name: so.Mapped[str] = so.mapped_column(sa.String(64), primary_key=True)
    value: so.Mapped[int] = so.mapped_column(sa.BigInteger)

    @staticmethod
    def of(name: str) -> int:
        """Rows of the table `name`."""
        return db.session.scalars(_BY_NAME, {"name": name}).one()

    @staticmethod
    def change(name: str, change: int) -> sa.Update:
        """The statement that counts rows of the table `name` that come or go."""
        return sa.update(Total).where(Total.name == name).values(value=Total.value + change)


# Where the tables are made from the models, and not by the migrations.
@sa.event.listens_for(Total.__table__, "after_create")
def _begin_to_count(_table: object, connection: sa.Connection, **_: Any) -> None:
    connection.execute(sa.insert(Total).values(name="user", value=0))


_BY_NAME = sa.select(Total.value).where(Total.name == sa.bindparam("name"))
