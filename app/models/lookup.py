"""The look-up of a token: a SELECT of its own, without session and transaction.

Nearly every request begins with such a SELECT, that of its token, and many need no
other. Through the session it takes ten times as long.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import psycopg
import sqlalchemy as sa
import sqlalchemy.orm as so

from app.extensions import REPLICA, Model, db
from app.models.stored_token import StoredToken
from app.models.user import User
from app.postgresql import PostgreSQLConnection
from app.security import tokens

M = TypeVar("M", bound=Model)
T = TypeVar("T")

# "cached plan must not change result type", after a migration.
_OUTDATED_PLAN = psycopg.errors.FeatureNotSupported


def look_up_login_token(text: str) -> dict[str, Any] | None:
    """Return the columns of the active user with this login token, or `None`.

    Expired or not. One SELECT, and none for a text that cannot be a login token.
    """
    if not tokens.may_be_login_token(text):
        return None
    forms = tokens.sealed_forms(text)
    lookup, names = _by_sealed_forms(len(forms))
    found = lookup.find(**dict(zip(names, forms, strict=True)))
    # Found by this text: no need to decrypt it.
    return None if found is None else found[0] | {"token": text}


def look_up_stored_token(
    model: type[StoredToken], text: str
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the columns of a token and those of its active user, or `None`.

    Expired or not. One SELECT, and none for a text that cannot be a token.
    """
    if not tokens.is_valid(text):
        return None
    found = _by_digest(model).find(digest=tokens.digest(text))
    return None if found is None else (found[0], found[1])


class Lookup:
    """A SELECT of models that finds at most one row; its parameters are `bindparam`s."""

    def __init__(self, query: Any) -> None:  # the type of a Select of models
        self._query: sa.Select[Any] = query
        self._compiled: dict[str, _Compiled] = {}

    def find(self, **parameters: Any) -> list[dict[str, Any]] | None:
        """Return for each model the values of its columns by name; `None` without a row.

        Deferred columns are left out.

        Args:
            parameters: as the driver takes them.

        Raises:
            sqlalchemy.exc.DBAPIError: as a session does.
        """
        engine = db.engine
        name = engine.dialect.name
        compiled = self._compiled.get(name)
        if compiled is None:
            compiled = _Compiled(self._query, parameters, engine.dialect)
            self._compiled[name] = compiled
        return select_once(engine, compiled.sql, compiled.values | parameters, compiled.read)


class _Compiled:
    """The query in the SQL of one database, and how its row is read."""

    def __init__(
        self, query: sa.Select[Any], parameters: dict[str, Any], dialect: sa.Dialect
    ) -> None:
        models = [description["entity"] for description in query.column_descriptions]
        self._names = [
            [c.key for c in sa.inspect(m).column_attrs if not c.deferred] for m in models
        ]
        columns: list[Any] = [
            getattr(model, name)
            for model, names in zip(models, self._names, strict=True)
            for name in names
        ]
        # Both drivers take parameters by name, Psycopg without being told.
        by_name = {"paramstyle": "named"} if dialect.name == "sqlite" else {}
        statement = query.with_only_columns(*columns, maintain_column_froms=True)
        compiled: Any = statement.compile(dialect=type(dialect)(**by_name))
        state = compiled.construct_expanded_state(parameters)
        self.sql: str = state.statement
        # Of the query itself.
        self.values = {name: v for name, v in state.parameters.items() if name not in parameters}
        self._types = [column.type.dialect_impl(dialect) for column in columns]
        self._dialect = dialect
        self._converters: list[tuple[int, Callable[[Any], Any]]] | None = None

    def read(self, cursor: Any) -> list[dict[str, Any]] | None:
        row = cursor.fetchone()
        if row is None:
            return None
        if self._converters is None:
            self._converters = self._converters_of(cursor)
        values = list(row)
        for index, convert in self._converters:
            values[index] = convert(values[index])
        found = []
        for names in self._names:
            found.append(dict(zip(names, values, strict=False)))
            del values[: len(names)]
        return found

    def _converters_of(self, cursor: Any) -> list[tuple[int, Callable[[Any], Any]]]:
        """Return for the index of a column what makes its value from that of the driver."""
        converters = [
            type_.result_processor(self._dialect, column[1])
            for type_, column in zip(self._types, cursor.description, strict=True)
        ]
        return [(index, convert) for index, convert in enumerate(converters) if convert]


def select_once(
    engine: sa.Engine, sql: str, parameters: dict[str, Any], read: Callable[[Any], T]
) -> T:
    """Run a SELECT without a session and a transaction, and return `read(cursor)`.

    Where the session has a transaction already, the SELECT is part of it: a second
    connection would wait for the pool, and not see what the first has written.
    Otherwise, a connection that the server has ended is replaced, and the SELECT is run
    once more. It never runs on a replica, where a revoked token may still be.
    """
    session = db.session() if db.session.registry.has() else None
    if session is not None and session.in_transaction() and REPLICA not in session.info:
        with session.connection().exec_driver_sql(sql, parameters) as result:
            return read(result.cursor)
    error_class = engine.dialect.loaded_dbapi.Error
    may_repeat = True
    while True:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            try:
                return read(_execute(driver, sql, parameters))
            except error_class as error:
                is_outdated = isinstance(error, _OUTDATED_PLAN)
                if is_outdated:  # in all connections; one that was ended is replaced by the pool
                    connection.invalidate()
                    engine.dispose()
                # Not where `answer_seconds` are over: that has closed the connection.
                if not (may_repeat and (is_outdated or getattr(driver, "broken", False))):
                    raise sa.exc.DBAPIError.instance(sql, None, error, error_class) from error
        may_repeat = False


def _execute(driver: Any, sql: str, parameters: dict[str, Any]) -> Any:
    """Return a cursor with the result."""
    if not isinstance(driver, PostgreSQLConnection):
        return driver.cursor().execute(sql, parameters)
    driver.autocommit = True  # until it is taken from the pool again
    return driver.cursor_without_session.execute(sql, parameters, prepare=True)


def put_into_session(model: type[M], values: dict[str, Any]) -> M:
    """Return the object with these values of its columns, as if the session had read it.

    If the session has the object already, it is returned as it is.
    """
    mapper = sa.inspect(model)
    session = db.session()
    if mapper.polymorphic_on is not None:  # only a SELECT can tell the class
        return session.get_one(model, values["id"])
    identity = mapper.identity_key_from_primary_key((values["id"],))
    thing = cast("M | None", session.identity_map.get(identity))
    if thing is None:
        thing = cast("M", mapper.class_manager.new_instance())
        vars(thing).update(values)
        so.make_transient_to_detached(thing)
        session.add(thing)
        # For listeners of the event, as `Session.merge(load=False)` calls them.
        mapper.class_manager.dispatch.load(sa.inspect(thing), None)
    return thing


@cache
def _by_sealed_forms(count: int) -> tuple[Lookup, list[str]]:
    """Return the look-up of a token that may be sealed in `count` forms, and their names."""
    names = [f"sealed_{number}" for number in range(count)]
    forms = [sa.bindparam(name, type_=sa.LargeBinary) for name in names]
    sealed = sa.type_coerce(User.token, sa.LargeBinary)
    return Lookup(sa.select(User).where(User.is_active(), sealed.in_(forms))), names


@cache
def _by_digest(model: type[StoredToken]) -> Lookup:
    return Lookup(
        sa.select(model, User)
        .join(User, User.id == model.user_id)
        .where(model.digest == sa.bindparam("digest"), User.is_active())
    )
