"""The audit log: log ins, refused passwords, and changes of accounts and tokens.

A line of app/http/logs.py for each event, on the standard error stream:

    {"time": "2026-11-21T09:30:00.123456+00:00", "event": "log_in", "user_id": 1,
     "source": "203.0.113.7", "request_id": "0123456789abcdef0123456789abcdef"}

`user_id` is null if no user has the given name. The name itself is not logged: people
type passwords into the wrong field. `source` is the address of the client; `source` and
`request_id` are null for commands.
"""

import json
import logging
import sys
from enum import StrEnum

from flask import Flask, has_request_context

from app.clock import utc_now
from app.http import logs, metrics
from app.http.headers import request

_log = logging.getLogger("microblog_api.audit")


class Event(StrEnum):
    LOG_IN = "log_in"  # a request was authenticated with a password
    LOG_IN_FAILED = "log_in_failed"
    LOG_IN_THROTTLED = "log_in_throttled"
    LOG_OUT = "log_out"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105  no password
    DEACTIVATED = "deactivated"
    ACTIVATED = "activated"
    TOKEN_CREATED = "token_created"  # noqa: S105  no password
    TOKEN_REVOKED = "token_revoked"  # noqa: S105  no password


def record(event: Event, user_id: int | None) -> None:
    """Write a line. Call it after the commit of what it reports."""
    if metrics.current is not None:
        metrics.current.event(event).inc()
    source, request_id = None, None
    if has_request_context():
        source, request_id = logs.address(request.remote_addr), request.id
    line = {
        "time": utc_now().isoformat(timespec="microseconds"),
        "event": event,
        "user_id": user_id,
        "source": source,
        "request_id": request_id,
    }
    _log.info(json.dumps(line), extra={"line": line})


def init_app(_app: Flask) -> None:
    if _log.level == logging.NOTSET:
        _log.setLevel(logging.INFO)
    logs.use_unless_configured(_log, logs.event_formatter_for(sys.stderr))
