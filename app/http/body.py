"""How a request's body is read: JSON or a form, whole, and not too large."""

import json
from typing import Any, NoReturn

from apiflask import Schema, abort
from apiflask.schema_adapters.marshmallow import parser
from flask import Flask, Request, current_app
from webargs.multidictproxy import MultiDictProxy
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge


def init_app(_app: Flask) -> None:
    # APIFlask's own accept what is not JSON, and answer 422.
    parser.location_loader("json")(load_json)
    parser.location_loader("form")(load_form)


def load_json(request: Request, _schema: Schema | None = None) -> Any:
    """Return the body as JSON. 415 if it is not declared as JSON, 400 if it is not JSON."""
    if not request.is_json:
        abort(415)
    try:
        # RFC 8259: UTF-8, a byte order mark may be ignored. Given bytes, `json`
        # would guess the encoding and accept lone surrogates.
        text = _read_body(request).decode("utf-8-sig")
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        abort(400, "the body is not valid JSON")


def load_form(request: Request, schema: Schema) -> Any:
    """Return the body as a form; a repeated field has its first value."""
    _read_body(request)
    return MultiDictProxy(request.form, schema)


def _read_body(request: Request) -> bytes:
    """Return the whole body. 413 if it is too large, 400 if it does not arrive as announced.

    app/http/asgi.py refuses the latter itself; `flask run` and other servers do not.
    """
    try:
        body = request.get_data()
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001  the WSGI server may raise anything for broken chunks
        abort(400, "the body could not be read")
    if request.content_length is None:
        # Werkzeug truncates a chunked body at the limit without an error.
        if len(body) >= current_app.config["MAX_CONTENT_LENGTH"]:
            raise RequestEntityTooLarge
    elif len(body) < request.content_length:
        abort(400, "the body ends before its Content-Length")
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON (RFC 8259)")
