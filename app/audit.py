"""The audit log: who came in, who was refused, and what became of accounts and tokens.

A line of JSON for each event, on the standard error stream:

    {"time": "2026-11-21T09:30:00.123456+00:00", "event": "log_in", "user_id": 1,
     "source": "203.0.113.7", "request_id": "0123456789abcdef0123456789abcdef"}

`user_id` is null where nobody has the name that was given, which is not logged:
people type passwords into the wrong field. `source` is the client's address,
and null for what was done on the command line, as is `request_id`.
"""

import json
import logging
from enum import StrEnum

from flask import Flask, has_request_context
from flask.logging import default_handler, has_level_handler

from app.columns import utc_now
from app.headers import request

_log = logging.getLogger("microblog_api.audit")


class Event(StrEnum):
    LOG_IN = "log_in"  # a password was right, at whichever route
    LOG_IN_FAILED = "log_in_failed"
    LOG_IN_THROTTLED = "log_in_throttled"
    LOG_OUT = "log_out"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105  no password
    DEACTIVATED = "deactivated"
    ACTIVATED = "activated"
    TOKEN_CREATED = "token_created"  # noqa: S105  no password
    TOKEN_REVOKED = "token_revoked"  # noqa: S105  no password


def record(event: Event, user_id: int | None) -> None:
    """Writes a line; of what is done to the database, after its commit."""
    source, request_id = None, None
    if has_request_context():
        source, request_id = request.remote_addr, request.id
    line = {
        "time": utc_now().isoformat(timespec="microseconds"),
        "event": event,
        "user_id": user_id,
        "source": source,
        "request_id": request_id,
    }
    _log.info(json.dumps(line))  # in ASCII: no character of a header can end the line


def init_app(_app: Flask) -> None:
    # As Flask does with its own: what the embedding program has set wins.
    if _log.level == logging.NOTSET:
        _log.setLevel(logging.INFO)
    if not has_level_handler(_log):
        _log.addHandler(_handler)


_handler = logging.StreamHandler(default_handler.stream)
_handler.setFormatter(logging.Formatter("%(message)s"))
