"""The number of rows of a table, kept up to date: counting a million rows takes too long."""

from typing import Any, ClassVar

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

    # The models that are counted, by the name of their table.
    kept: ClassVar[dict[str, type[Model]]] = {}

    @staticmethod
    def keep(model: type[Model], name: str) -> None:
        """Count the objects of `model`, in the table `name`, that a session adds or deletes.

        Not those with a `deactivated_at`.
        """

        def count(change: int) -> Any:
            def run(_mapper: object, connection: sa.Connection, row: Any) -> None:
                if getattr(row, "deactivated_at", None) is None:
                    connection.execute(Total.addition(name, change))

            return run

        Total.kept[name] = model
        sa.event.listen(model, "after_insert", count(1))
        sa.event.listen(model, "after_delete", count(-1))

    @staticmethod
    def count(model: type[Model]) -> sa.Select[Any]:
        """Return the query that counts the objects of `model` one by one."""
        query = sa.select(sa.func.count()).select_from(model)
        deactivated_at = getattr(model, "deactivated_at", None)
        return query if deactivated_at is None else query.where(deactivated_at.is_(None))


@sa.event.listens_for(Total.__table__, "after_create")
def _begin_to_count(_table: object, connection: sa.Connection, **_: Any) -> None:
    # Where the tables are created from the models, not by the migrations.
    connection.execute(sa.insert(Total).values(name="user", value=0))


_BY_NAME = sa.select(Total.value).where(Total.name == sa.bindparam("name"))
