"""One JSON shape for every error, whatever raised it.

    {"error": "<HTTP reason>", "message": "<what to do about it>"}

A rejected field adds `"errors": {"<field>": ["..."]}`. A 401 is exactly
`{"error": "Unauthorized"}`; what was wrong with the credentials stands in its
`WWW-Authenticate` header (RFC 6750).
"""

import sqlite3
from collections.abc import Iterator
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

from app.models import OutdatedError
from app.passwords import BusyError

T = TypeVar("T")
_Answer = tuple[dict[str, Any], int, dict[str, Any]]

# Where the one who raised the error had nothing more to say.
MESSAGES = {
    400: "the request is not what this address takes",
    403: "this is not yours to read or change",
    404: "there is nothing at this address",
    405: "this address does not answer to this method; the Allow header names those it does",
    413: "the body is too large",
    415: "send the body as JSON, with Content-Type: application/json",
    429: "too many wrong passwords; try again when the Retry-After header says",
    500: "the server failed to answer; the fault is on our side",
    503: "the database does not answer; try again shortly",
}
_RETRY_AFTER_SECONDS = "5"

# Primary result codes of SQLite that tell of its surroundings, not of our statement.
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
        unknown = EXCLUDE  # as clients should do with fields that they do not know

    error = String(required=True, metadata={"description": "the reason, as HTTP names it"})
    message = String(metadata={"description": "what to do about it; only a 401 has none"})
    errors = Dict(
        String(), List(String()), metadata={"description": "what is wrong with which field"}
    )


def init_app(app: APIFlask) -> None:
    app.error_processor(_answer)
    app.register_error_handler(sa.exc.SQLAlchemyError, _answer_database_error)
    app.register_error_handler(BusyError, _answer_busy)
    app.register_error_handler(SecurityError, _answer_untrusted_host)
    # What was to be changed has just been deleted, or deactivated.
    for gone in (StaleDataError, OutdatedError):
        app.register_error_handler(gone, lambda _error: _answer(HTTPError(404)))


def found(thing: T | None) -> T:
    """What a model has found. 404 if that is nothing."""
    if thing is None:
        abort(404)
    return thing


def _answer(error: HTTPError) -> _Answer:
    reason = HTTP_STATUS_CODES[error.status_code]
    body: dict[str, Any] = {"error": reason}
    rejected = _rejected_fields(error.detail)
    if rejected:
        body["message"] = _summary(rejected)
        rejected.pop(SCHEMA, None)  # the body as a whole is no field
        if rejected:
            body["errors"] = rejected
    elif error.status_code != 401:
        own = error.message if error.message != reason else None
        body["message"] = own or MESSAGES.get(error.status_code, reason)
    headers = dict(error.headers)
    if error.status_code == 503:
        headers.setdefault("Retry-After", _RETRY_AFTER_SECONDS)
    return Error().dump(body), error.status_code, headers


def _rejected_fields(detail: Any) -> dict[str, list[str]]:
    """`{"json": {"name": ["..."]}}`, as webargs reports it, without the location."""
    return {name: texts for fields in detail.values() for name, texts in fields.items()}


def _summary(fields: dict[str, list[str]]) -> str:
    def sentences() -> Iterator[str]:
        for name, texts in fields.items():
            for text in texts:
                # "must be ..." needs its subject; anything else is a sentence by itself.
                yield f"{name} {text}" if text.startswith("must be ") else text

    return "; ".join(dict.fromkeys(sentences()))


def _answer_database_error(error: sa.exc.SQLAlchemyError) -> _Answer:
    if not _is_unavailable(error):
        raise error
    current_app.logger.warning("the database does not answer: %s", error.__cause__ or error)
    return _answer(HTTPError(503))


def _answer_busy(_error: BusyError) -> _Answer:
    text = "too many passwords are being checked at this moment; try again shortly"
    return _answer(HTTPError(503, text, headers={"Retry-After": "1"}))


def _answer_untrusted_host(_error: SecurityError) -> _Answer:
    return _answer(HTTPError(400, "the Host header names none of the hosts of this server"))


def _is_unavailable(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether the database could not be asked, rather than asked something wrong."""
    if isinstance(error, sa.exc.TimeoutError):  # no connection became free in time
        return True
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0)
        return code & 0xFF in _SQLITE_UNAVAILABLE
    return error.connection_invalidated or isinstance(error, sa.exc.OperationalError)
