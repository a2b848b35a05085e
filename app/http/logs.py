"""The format of all logs: a JSON object on each line, or text on a terminal.

A line of the audit log or of the access log has an `event`:

    {"time": "2026-11-21T09:30:00.123456+00:00", "event": "request", "method": "GET",
     "path": "/api/users", "status": 200, "milliseconds": 1.2, "bytes": 345,
     "source": "203.0.113.7", "request_id": "0123456789abcdef0123456789abcdef"}

Every other line is a warning or an error:

    {"time": "2026-11-21T09:30:00.123456+00:00", "level": "ERROR", "logger": "app",
     "message": "Exception on /api/users [GET]", "traceback": "Traceback ...",
     "request_id": "0123456789abcdef0123456789abcdef"}

`traceback` is null without an exception, `request_id` outside a request. JSON lines are
ASCII without control characters: nothing that a client sends can end a line.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO
from urllib.parse import quote

from flask import Flask, has_request_context
from flask.logging import default_handler, has_level_handler

from app.http.headers import request
from app.security.rate_limits import parse_address


def init_app(app: Flask) -> None:
    use_unless_configured(logging.getLogger(app.name), formatter_for(sys.stderr))


def use_unless_configured(logger: logging.Logger, formatter: logging.Formatter) -> None:
    """Write the records of `logger` to standard error with this formatter.

    As Flask does with its own logger: what the embedding program has configured wins.
    """
    if not has_level_handler(logger):
        handler = logging.StreamHandler(default_handler.stream)
        handler.setFormatter(formatter)
        logger.addHandler(handler)


def formatter_for(stream: TextIO | None) -> logging.Formatter:
    """Return a formatter that writes text if `stream` is a terminal, else JSON."""
    return TextFormatter() if stream is not None and stream.isatty() else JSONFormatter()


def event_formatter_for(stream: TextIO | None) -> logging.Formatter:
    """Return the same for records of events: their message is the JSON object already."""
    return TextFormatter() if stream is not None and stream.isatty() else logging.Formatter()


def quoted_path(path: str) -> str:
    """Return `PATH_INFO` of WSGI percent-encoded, as it was sent, without tokens."""
    return mask_tokens(quote(path, safe="/", encoding="latin-1"))


@lru_cache
def address(text: str | None) -> str | None:
    """Return the address of a client without its port; `None` if a proxy sent something else."""
    ip = parse_address(text or "")
    return None if ip is None else str(ip)


def mask_tokens(text: str) -> str:
    """Return `text` with `...` in place of the secret part of each token."""
    return re.sub(r"(mb[lad]_)\w+", r"\1...", text)


def printable(text: str) -> str:
    """Return `text` with escapes for everything that a terminal would obey."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


class JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.line_of(record))

    def line_of(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the JSON object. Call it in the thread that has logged the record."""
        line: dict[str, Any] | None = getattr(record, "line", None)
        if line is not None:
            return line
        traceback = self.formatException(record.exc_info) if record.exc_info else None
        time = datetime.fromtimestamp(record.created, UTC)
        return {
            "time": time.isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            # Flask writes the path of a failed request into its message.
            "message": mask_tokens(record.getMessage()),
            "traceback": traceback and mask_tokens(traceback),
            "request_id": getattr(request, "id", None) if has_request_context() else None,
        }


class TextFormatter(JSONFormatter):
    """The same in words: the time, what happened, and the other fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        line = dict(self.line_of(record))
        traceback = line.pop("traceback", None) or ""
        names = ("time", "event", "level", "message")
        words = [str(line.pop(name)) for name in names if name in line]
        words += [f"{name}={value}" for name, value in line.items() if value is not None]
        # Indented, so that no line of an exception's text can pass for one of ours.
        return "\n    ".join(map(printable, [" ".join(words), *traceback.splitlines()]))
