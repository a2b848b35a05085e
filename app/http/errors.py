"""The JSON shape of all errors.

    {"error": "<HTTP reason>", "message": "<what to do about it>"}

A rejected field adds `"errors": {"<field>": ["..."]}`. A 401 is exactly
`{"error": "Unauthorized"}`; what was wrong with the credentials stands in its
`WWW-Authenticate` header (RFC 6750).
"""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import sqlalchemy as sa
from apiflask import APIFlask, HTTPError, Schema, abort
from apiflask.fields import Dict, List, String
from flask import current_app
from marshmallow import EXCLUDE
from marshmallow.exceptions import SCHEMA
from sqlalchemy.orm.exc import StaleDataError
from werkzeug.exceptions import SecurityError
from werkzeug.http import HTTP_STATUS_CODES

from app.http import metrics
from app.models import OutdatedError
from app.security.passwords import BusyError
from app.security.rate_limits import LimitReachedError

T = TypeVar("T")
_Answer = tuple[dict[str, Any], int, dict[str, Any]]

# Messages of errors that were raised without one.
MESSAGES = {
    400: "the request is invalid",
    403: "this is not yours to read or change",
    404: "there is nothing at this address",
    405: "this address does not answer to this method; the Allow header names those it does",
    413: "the body is too large",
    415: "send the body as JSON, with Content-Type: application/json",
    429: "too many requests; try again when the Retry-After header says",
    500: "the server failed to answer; the fault is on our side",
    503: "the database does not answer; try again shortly",
}
_RETRY_AFTER_SECONDS = "5"
# Texts of the tutorial that already name their field; others get its name as a prefix.
_WHOLE_SENTENCES = ("must include ", "please use ")

# Primary result codes of SQLite that are about its file, not about our statement.
_SQLITE_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}


class Error(Schema):
    class Meta:
        unknown = EXCLUDE  # as clients should with fields they do not know

    error = String(required=True, metadata={"description": "the reason phrase of HTTP"})
    message = String(metadata={"description": "what to do about it; a 401 has none"})
    errors = Dict(String(), List(String()), metadata={"description": "the rejected fields and why"})


def init_app(app: APIFlask) -> None:
    app.error_processor(_answer)
    app.register_error_handler(sa.exc.SQLAlchemyError, _answer_database_error)
    app.register_error_handler(BusyError, _answer_busy)
    app.register_error_handler(SecurityError, _answer_untrusted_host)
    app.register_error_handler(LimitReachedError, _answer_limit_reached)
    # What was to be changed has just been deleted or deactivated.
    for gone in (StaleDataError, OutdatedError):
        app.register_error_handler(gone, lambda _error: _answer(HTTPError(404)))


def found(thing: T | None) -> T:
    """Return what a model has found; answer 404 if that is `None`."""
    if thing is None:
        abort(404)
    return thing


def _answer(error: HTTPError) -> _Answer:
    reason = HTTP_STATUS_CODES[error.status_code]
    body: dict[str, Any] = {"error": reason}
    rejected = _rejected_fields(error.detail)
    if rejected:
        body["message"] = _summary(rejected)
        rejected.pop(SCHEMA, None)  # the error of the whole body
        if rejected:
            body["errors"] = rejected
    elif error.status_code != 401:
        own = error.message if error.message != reason else None
        body["message"] = own or MESSAGES.get(error.status_code, reason)
    headers = dict(error.headers)
    if error.status_code == 503:
        headers.setdefault("Retry-After", _RETRY_AFTER_SECONDS)
    return Error().dump(body), error.status_code, headers


def _rejected_fields(detail: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the texts of each field, a nested one as `tags.0` or `address.city`.

    Args:
        detail: `{"json": {"name": ["..."]}}`, as webargs reports it: at each level
            texts, or further levels.
    """
    fields: dict[str, list[str]] = {}

    def collect(path: tuple[str, ...], found: Any) -> None:
        if isinstance(found, Mapping):
            for name, deeper in found.items():
                # The error of a nested object is reported at the field that holds it.
                collect(path if name == SCHEMA and path else (*path, str(name)), deeper)
        else:
            texts = found if isinstance(found, list | tuple) else [found]
            fields.setdefault(".".join(path), []).extend(map(str, texts))

    for location in detail.values():
        if isinstance(location, Mapping):  # else it is the detail of a view's own abort()
            collect((), location)
    return fields


def _summary(fields: dict[str, list[str]]) -> str:
    def sentences() -> Iterator[str]:
        for name, texts in fields.items():
            for text in texts:
                if name == SCHEMA or text.startswith(_WHOLE_SENTENCES):
                    yield text
                else:
                    yield f"{name} {text}" if text.startswith("must ") else f"{name}: {text}"

    return "; ".join(dict.fromkeys(sentences()))


def _answer_database_error(error: sa.exc.SQLAlchemyError) -> _Answer:
    if not is_unavailable(error):
        raise error
    if metrics.current is not None:
        metrics.current.database_error(type(error).__name__).inc()
    current_app.logger.warning("the database does not answer: %s", error.__cause__ or error)
    return _answer(HTTPError(503))


def _answer_busy(_error: BusyError) -> _Answer:
    if metrics.current is not None:
        metrics.current.hashes_refused.inc()
    text = "too many passwords are being checked at this moment; try again shortly"
    return _answer(HTTPError(503, text, headers={"Retry-After": "1"}))


def _answer_limit_reached(error: LimitReachedError) -> _Answer:
    if metrics.current is not None:
        metrics.current.throttled(error.limit).inc()
    text = f"too many {error.counts}; try again when the Retry-After header says"
    headers = {"Retry-After": str(error.retry_after_seconds)}
    return _answer(HTTPError(429, text, headers=headers))


def _answer_untrusted_host(_error: SecurityError) -> _Answer:
    return _answer(HTTPError(400, "the Host header names none of the hosts of this server"))


def is_unavailable(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether the database could not be reached; else the statement was wrong."""
    if isinstance(error, sa.exc.TimeoutError):  # no connection became free in time
        return True
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0)
        return code & 0xFF in _SQLITE_UNAVAILABLE
    return error.connection_invalidated or isinstance(error, sa.exc.OperationalError)
