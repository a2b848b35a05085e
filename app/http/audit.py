"""The audit log: log ins, refused passwords, and changes of accounts and tokens.

A line of app/http/logs.py for each event, on the standard error stream:

    {"time": "2026-11-21T09:30:00.123456+00:00", "event": "log_in", "user_id": 1,
     "source": "203.0.113.7", "request_id": "0123456789abcdef0123456789abcdef", "by": null}

`user_id` is null if no user has the given name. The name itself is not logged: people
type passwords into the wrong field. `source` is the address of the client; `source` and
`request_id` are null for commands. `by` is the id of an administrator who did it to the
user; null otherwise. Each event is also a signal of app/signals.py.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from flask import Flask, current_app, has_request_context

from app.clock import utc_now
from app.http import logs, metrics
from app.http.headers import request
from app.signals import named

_log = logging.getLogger("microblog_api.audit")


class Event(StrEnum):
    LOG_IN = "log_in"  # a request was authenticated with a password
    LOG_IN_FAILED = "log_in_failed"
    LOG_IN_THROTTLED = "log_in_throttled"
    LOG_OUT = "log_out"
    USERNAME_CHANGED = "username_changed"
    EMAIL_CHANGED = "email_changed"
    EMAIL_VERIFIED = "email_verified"  # by a link that was mailed
    PASSWORD_RESET_REQUESTED = "password_reset_requested"  # noqa: S105  no password
    PASSWORD_RESET = "password_reset"  # noqa: S105  no password
    PASSWORD_CHANGED = "password_changed"  # noqa: S105  no password
    DEACTIVATED = "deactivated"
    ACTIVATED = "activated"
    ROLE_GRANTED = "role_granted"
    ROLE_REVOKED = "role_revoked"
    TOKEN_CREATED = "token_created"  # noqa: S105  no password
    TOKEN_ROTATED = "token_rotated"  # noqa: S105  no password
    TOKEN_REVOKED = "token_revoked"  # noqa: S105  no password


def record(
    event: Event, user_id: int | None, *, by: int | None = None, role: str | None = None
) -> None:
    """Write a line, and send the signal. Call it after the commit of what they report.

    Args:
        event: what has happened.
        user_id: to whom; `None` for nobody, or everybody.
        by: id of an administrator who did it to the user; else `None`.
        role: that was granted or revoked; lines of other events have no such key.
    """
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
        "by": by,
    }
    more = {} if role is None else {"role": role}
    line |= more
    _log.info(json.dumps(line), extra={"line": line})
    if named(event).receivers:
        _send(event, user_id=user_id, by=by, request_id=request_id, **more)


def _send(event: Event, **values: Any) -> None:
    """Call the receivers; one that raises is logged, and changes nothing else.

    They get a session of their own, so that they neither commit nor break what the request
    does. The second check leaves out their writes: a log out has ended the credential.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  Flask's way
    credential = request.credential if has_request_context() else None
    for receiver in named(event).receivers_for(app):
        with app.app_context(), _without_credential():
            try:
                receiver(app, credential=credential, **values)
            except Exception:
                app.logger.exception("a receiver of the signal %s has failed", event)


@contextmanager
def _without_credential() -> Iterator[None]:
    if not has_request_context():
        yield
        return
    credential, request.credential = request.credential, None
    try:
        yield
    finally:
        request.credential = credential


def init_app(_app: Flask) -> None:
    if _log.level == logging.NOTSET:
        _log.setLevel(logging.INFO)
    logs.use_unless_configured(_log, logs.event_formatter_for(sys.stderr))
