"""Whether this server can serve: what `/readyz` answers."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from threading import Lock

import sqlalchemy as sa
from alembic.script import ScriptDirectory
from flask import Flask

from app.clock import monotonic_now, seconds_ahead
from app.extensions import db
from app.http.draining import IS_STOPPING
from app.http.headers import request

# Seconds that a check may take, and for which its result is kept: many balancers, or an
# attacker, cost no more than one.
CHECK_SECONDS = 1
MOST_APART_SECONDS = 5  # of the clocks of this machine and of the database

_log = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    app.extensions["readiness"] = Readiness(app)


class Readiness:
    """Whether this process can serve."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._lock = Lock()
        self._check: Future[str | None] | None = None
        self._began = 0.0
        self._logged: str | None = None
        # Whether Redis answered when that was last checked; `None` without Redis.
        self.is_redis_there: bool | None = None

    def reason_against(self) -> str | None:
        """Return why requests should go elsewhere, in a request; `None` if they need not."""
        is_stopping = request.environ.get(IS_STOPPING)
        if is_stopping is not None and is_stopping():
            return "the server is stopping"
        now = monotonic_now()
        with self._lock:
            if self._check is None or (self._check.done() and now > self._began + CHECK_SECONDS):
                self._began = now
                self._check = self._thread.submit(self._look)
            check, end = self._check, self._began + CHECK_SECONDS
        try:
            reason = check.result(timeout=max(0, end - now))
        except TimeoutError:
            reason = f"the database does not answer within {CHECK_SECONDS} s"
        if reason != self._logged:
            _log.warning("not ready: %s", reason) if reason else _log.warning("ready again")
            self._logged = reason
        return reason

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "readiness")

    @cached_property
    def _engine(self) -> sa.Engine:
        """With connections of its own: those of the requests may all be in use."""
        with self._app.app_context():
            return sa.create_engine(db.engine.url, pool=db.engine.pool.recreate())

    @cached_property
    def revisions(self) -> tuple[set[str], set[str]]:
        """The revisions of the schema that this code wants, and all that it knows."""
        scripts = ScriptDirectory(self._app.extensions["migrate"].directory)
        return set(scripts.get_heads()), {script.revision for script in scripts.walk_revisions()}

    def _look(self) -> str | None:
        self.is_redis_there = self._app.extensions["rate_limits"].is_shared()
        wanted, known = self.revisions
        try:
            with self._engine.connect() as connection:
                if not sa.inspect(connection).has_table("alembic_version"):
                    return "the database has no tables; run `flask db upgrade`"
                found = set(connection.scalars(sa.text("SELECT version_num FROM alembic_version")))
        except sa.exc.SQLAlchemyError:
            return "the database does not answer"
        finally:
            self._engine.dispose()
        # A revision that is not known is of a newer release, whose schema this one can use.
        if found != wanted and found <= known:
            return "the schema is older than the code; run `flask db upgrade`"
        apart = seconds_ahead()
        if abs(apart) > MOST_APART_SECONDS:
            return f"the clock is {apart:+.0f} s off that of the database"
        return None
