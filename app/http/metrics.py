"""What is counted for Prometheus; docs/metrics.md has the table.

`current` is `None` until `start()`, which server.py calls in each of its processes if
METRICS_PORT is set. Without it nothing is counted, and prometheus_client is not imported.
metrics_server.py answers Prometheus, for all processes.
"""

import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

from flask import Flask

from app.clock import unix_now, utc_now
from app.extensions import db
from app.http.headers import HEALTH_PATHS, request
from app.security import tokens

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from sqlalchemy.pool import QueuePool

METHODS = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}
# Upper bounds of the durations that are counted together, in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SAMPLE_SECONDS = 1  # between two updates of the files
MOST_NOTED = 100_000  # that wait for the next update; far more than a process answers until then

_KINDS = {
    tokens.LOGIN_PREFIX: "login",
    tokens.DEVICE_PREFIX: "device",
    tokens.ACCESS_PREFIX: "access",
}

_ROUTE = "microblog_api.route"  # in the environment of WSGI

current: "Metrics | None" = None


class Metrics:
    """All metrics of a process. The label values are few: never an id, a name or a path."""

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        # Imported here, for processes that count nothing.
        import prometheus_client as prometheus  # noqa: PLC0415  only where it is asked for

        histogram = partial(prometheus.Histogram, registry=registry)
        counter = partial(prometheus.Counter, registry=registry)
        # Those of the live processes are added up; or the highest, with "livemax".
        gauge = partial(prometheus.Gauge, registry=registry, multiprocess_mode="livesum")

        requests = histogram(
            "microblog_http_request_duration_seconds",
            "Time from the headers of a request to its answer.",
            ["method", "route", "status"],
            buckets=BUCKETS,
        )
        events = counter("microblog_audit_events_total", "Lines of the audit log.", ["event"])
        token_checks = counter(
            "microblog_token_checks_total",
            "Tokens that were looked up.",
            ["check", "kind", "outcome"],
        )
        throttled = counter(
            "microblog_throttled_requests_total", "Requests that a limit refused.", ["limit"]
        )
        database_errors = counter(
            "microblog_database_errors_total", "Requests without a database.", ["error"]
        )
        self.hashes_refused = counter(
            "microblog_password_hashes_refused_total", "Passwords whose turn did not come in time."
        )
        self.event = events.labels
        self.throttled = throttled.labels
        self.database_error = database_errors.labels
        # Requests and tokens are first noted, and counted by `catch_up()`: many at once, which
        # takes half of the time. `cache`, as to find the labels takes longer than to count.
        self._request = cache(requests.labels)
        self._token_check = cache(token_checks.labels)
        self._requests: deque[tuple[tuple[Any, ...], float]] = deque(maxlen=MOST_NOTED)
        self._token_checks: deque[tuple[str, ...]] = deque(maxlen=MOST_NOTED)

        self._build = gauge(
            "microblog_build_info", "1, with the version.", ["version"], multiprocess_mode="livemax"
        )
        self._started = gauge(
            "microblog_process_start_time_seconds",
            "When the newest process began, in seconds since 1970.",
            multiprocess_mode="livemax",
        )
        self._processes = gauge("microblog_processes", "Processes that serve.")
        self._requests_waiting = gauge(
            "microblog_http_requests_waiting", "Requests that wait for a thread."
        )
        self._hashes_running = gauge(
            "microblog_password_hashes_running", "Passwords that are being hashed."
        )
        self._hashes_waiting = gauge(
            "microblog_password_hashes_waiting", "Passwords that wait for their turn."
        )
        self._connections_in_use = gauge(
            "microblog_database_connections_in_use", "Connections that requests hold."
        )
        self._connections_max = gauge(
            "microblog_database_connections_max", "Connections that requests may hold."
        )

    def count_request(self, environ: dict[str, Any], status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            environ: of WSGI, perhaps incomplete.
            status: of the answer.
            seconds: that it took.
        """
        if environ.get("PATH_INFO") in HEALTH_PATHS:
            return  # on a quiet service they would hide the others
        method = environ.get("REQUEST_METHOD")
        labels = (method if method in METHODS else "other", environ.get(_ROUTE, "none"), status)
        self._requests.append((labels, seconds))

    def count_token(self, check: str, text: str, expires_at: datetime | None) -> None:
        """Count a token that was looked up.

        Args:
            check: "request" for one that should open it, "introspection" for one in a body.
            text: of the token, or what was sent in its place.
            expires_at: of the token; `None` if it is unknown.
        """
        prefix = (
            tokens.LOGIN_PREFIX if tokens.is_of_tutorial(text) else text[: tokens.PREFIX_LENGTH]
        )
        if expires_at is not None:
            outcome = "valid" if expires_at > utc_now() else "expired"
        else:
            is_token = tokens.is_valid(text) or tokens.is_of_tutorial(text)
            outcome = "unknown" if is_token else "malformed"
        self._token_checks.append((check, _KINDS.get(prefix, "none"), outcome))

    def catch_up(self) -> None:
        """Count what is noted."""
        for _ in range(len(self._requests)):
            labels, seconds = self._requests.popleft()
            self._request(*labels).observe(seconds)
        noted = Counter(self._token_checks.popleft() for _ in range(len(self._token_checks)))
        for names, number in noted.items():
            self._token_check(*names).inc(number)

    def begin(self, version: str) -> None:
        """Set what stays as it is while the process lives."""
        self._build.labels(version).set(1)
        self._started.set(unix_now())
        self._processes.set(1)

    def sample(self, app: Flask, requests_waiting: int) -> None:
        """Read what waits and what is in use."""
        with app.app_context():
            pool = cast("QueuePool", db.engine.pool)
        running, waiting = app.extensions["passwords"].running_and_waiting()
        self._requests_waiting.set(requests_waiting)
        self._hashes_running.set(running)
        self._hashes_waiting.set(waiting)
        self._connections_in_use.set(pool.checkedout())
        self._connections_max.set(pool.size())


def start(app: Any, process: int, directory: str, requests_waiting: Callable[[], int]) -> None:
    """Begin to count in this process, before its first request.

    Args:
        app: the application.
        process: a number that no other live process has. One that takes the number of
            another that has ended goes on with its counts.
        directory: for the files of prometheus_client, one of each process and kind.
        requests_waiting: returns the number of requests that wait for a thread.
    """
    global current  # noqa: PLW0603  a process counts for itself
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    from prometheus_client import values  # noqa: PLC0415  see above

    values.ValueClass = values.MultiProcessValue(lambda: process)
    current = Metrics()
    current.begin(app.version)
    app.url_value_preprocessor(_note_route)
    threading.Thread(target=_keep_up, args=(current, app, requests_waiting)).start()


def _note_route(*_: Any) -> None:
    """Keep the route for the end of the request, where Flask has forgotten it."""
    found = request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  once
    if found.url_rule is not None:
        found.environ[_ROUTE] = found.url_rule.rule


def _keep_up(metrics: Metrics, app: Flask, requests_waiting: Callable[[], int]) -> None:
    process = threading.main_thread()
    while process.is_alive():
        metrics.catch_up()
        metrics.sample(app, requests_waiting())
        process.join(SAMPLE_SECONDS)
    metrics.catch_up()  # Python waits for this thread, so that nothing is lost at the end
