"""Lists and pages may be read from a replica: a standby of PostgreSQL, which lags behind.

A view says so with `may_read_replica`. The replica is used only while it is known to have
everything that was committed `MOST_LAG_SECONDS` ago; otherwise the primary is read.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from http import HTTPStatus
from inspect import iscoroutinefunction
from threading import Lock, Thread
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so
from apiflask import HTTPError
from flask import Flask, current_app
from flask_sqlalchemy.session import Session
from werkzeug.exceptions import NotFound

from app.extensions import PRIMARY, REPLICA, db
from app.http.errors import is_unavailable
from app.http.headers import SAFE_METHODS, request

MOST_LAG_SECONDS = 5
MEASURED_EVERY_SECONDS = 1
PAUSE_SECONDS = 10  # for which a replica that has failed is not asked

# The position in the write-ahead log, and what tells the histories of two servers apart.
_POSITION = (
    "SELECT {} - '0/0', system_identifier, timeline_id"
    " FROM pg_control_system(), pg_control_checkpoint()"
)
_WRITTEN = _POSITION.format("pg_current_wal_flush_lsn()")
_REPLAYED = _POSITION.format("CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END")


def init_app(app: Flask) -> None:
    with app.app_context():
        if REPLICA in db.engines:
            app.extensions[REPLICA] = _Replica(app, db.engine, db.engines[REPLICA])


def may_read_replica(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let a view be answered from the replica: what it reads may be `MOST_LAG_SECONDS` old.

    Put it below `auth_required` and above `input` and `output`. Only GET and HEAD are
    answered from the replica. What fails there, or is not found, is asked of the primary:
    the view is then called a second time. `Cache-Control: no-cache` asks for the primary.

    Raises:
        TypeError: it is above `auth_required`, and credentials would be read there, too.
    """
    if "auth" in getattr(view, "_spec", {}):
        raise TypeError("put may_read_replica below auth_required")
    is_async = iscoroutinefunction(view)

    @wraps(view)
    def decorated(*args: Any, **kwargs: Any) -> Any:
        replica: _Replica | None = current_app.extensions.get(REPLICA)
        call = current_app.ensure_sync(view) if is_async else view
        if (
            replica is None
            or request.method not in SAFE_METHODS
            or request.cache_control.no_cache
            or not replica.is_usable()
        ):
            return call(*args, **kwargs)
        try:
            with _reading_replica():
                return call(*args, **kwargs)
        except sa.exc.SQLAlchemyError as error:
            if is_unavailable(error):
                replica.pause(error)
        except HTTPError as error:
            if error.status_code != HTTPStatus.NOT_FOUND:
                raise
        except NotFound:
            pass
        return call(*args, **kwargs)

    return decorated


class _ReplicaSession(Session):
    """Reads from the replica, except what asks for the primary; refuses to write."""

    def get_bind(
        self, mapper: Any = None, clause: Any = None, bind: Any = None, **more: Any
    ) -> Any:
        if bind is not None:
            return bind
        engine = super().get_bind(mapper, clause, **more)
        return db.engines[REPLICA] if engine is db.engine else engine


@sa.event.listens_for(_ReplicaSession, "before_flush")
def _refuse_to_flush(*_: Any) -> None:
    raise RuntimeError("a view that may read the replica must not write")


@sa.event.listens_for(_ReplicaSession, "do_orm_execute")
def _route(state: so.ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        _refuse_to_flush()
    if state.execution_options.keys() >= PRIMARY.keys():
        state.bind_arguments["bind"] = db.engine
        # Also where the replica has given the same object.
        state.update_execution_options(populate_existing=True)


@contextmanager
def _reading_replica() -> Iterator[None]:
    """Replace `db.session` within the block: no object belongs to both sessions."""
    registry = db.session.registry
    usual = registry() if registry.has() else None
    registry.set(
        _ReplicaSession(db, query_cls=db.Query, expire_on_commit=False, info={REPLICA: True})
    )
    try:
        yield
    finally:
        db.session.remove()
        if usual is not None:
            registry.set(usual)
        if request.credential is not None:
            vars(request.credential).pop("user", None)  # may belong to the session that is closed


class _Replica:
    """Whether the replica may be used; measured in a thread, for which no request waits."""

    def __init__(self, app: Flask, primary: sa.Engine, replica: sa.Engine) -> None:
        self._logger = app.logger
        self._primary, self._replica = primary, replica
        # When the primary was at which position; in seconds of the monotonic clock.
        self._written: list[tuple[float, tuple[Any, ...]]] = []
        self._fresh_until = self._paused_until = self._measured_at = float("-inf")
        self._was_used: bool | None = None
        self._measuring = Lock()

    def is_usable(self) -> bool:
        now = time.monotonic()
        is_due = now >= max(self._measured_at + MEASURED_EVERY_SECONDS, self._paused_until)
        if is_due and self._measuring.acquire(blocking=False):
            self._measured_at = now
            Thread(target=self._measure, daemon=True).start()
        return self._paused_until <= now < self._fresh_until

    def pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        self._log(str(error.__cause__ or error))

    def _measure(self) -> None:
        try:
            now = time.monotonic()
            self._written = [one for one in self._written if one[0] > now - MOST_LAG_SECONDS]
            self._written.append((now, _position(self._primary, _WRITTEN)))
            replayed, *history = _position(self._replica, _REPLAYED)
            # Whoever has replayed a position has all that was committed at that time.
            reached = [
                then
                for then, (written, *its_history) in self._written
                if its_history == history and replayed is not None and written <= replayed
            ]
            self._fresh_until = max(reached, default=float("-inf")) + MOST_LAG_SECONDS
            late = "it lags behind, or is no standby of the primary"
            self._log(None if now < self._fresh_until else late)
        except sa.exc.SQLAlchemyError as error:
            self.pause(error)
        finally:
            self._measuring.release()

    def _log(self, reason_against: str | None) -> None:
        is_used = reason_against is None
        if is_used is not self._was_used:
            self._was_used = is_used
            text = "the replica is used" if is_used else "the replica is not used: %s"
            self._logger.warning(text, *([] if is_used else [reason_against]))


def _position(engine: sa.Engine, query: str) -> tuple[Any, ...]:
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        return tuple(connection.exec_driver_sql(query).one())
