"""The number of rows of a table, kept up to date: counting a million rows takes too long."""

from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.extensions import Model, db


class Total(Model):
    name: so.Mapped[str] = so.mapped_column(sa.String(64), primary_key=True)
    value: so.Mapped[int] = so.mapped_column(sa.BigInteger)

    @staticmethod
    def of(name: str) -> int:
        """Return the number of rows of the table `name`."""
        return db.session.scalars(_BY_NAME, {"name": name}).one()

    @staticmethod
    def addition(name: str, change: int) -> sa.Update:
        """Return the statement that adds `change` to the number of the table `name`."""
        return sa.update(Total).where(Total.name == name).values(value=Total.value + change)

    @staticmethod
    def keep(model: type[Model], name: str) -> None:
        """Count the objects of `model`, in the table `name`, that a session adds or deletes."""

        def count(change: int) -> Any:
            return lambda _mapper, connection, _row: connection.execute(
                Total.addition(name, change)
            )

        sa.event.listen(model, "after_insert", count(1))
        sa.event.listen(model, "after_delete", count(-1))


@sa.event.listens_for(Total.__table__, "after_create")
def _begin_to_count(_table: object, connection: sa.Connection, **_: Any) -> None:
    # Where the tables are created from the models, not by the migrations.
    connection.execute(sa.insert(Total).values(name="user", value=0))


_BY_NAME = sa.select(Total.value).where(Total.name == sa.bindparam("name"))
