"""How a request is read: the body, and the kinds of field in it; how a field is described."""

import json
import re
from typing import Any, NoReturn

from apiflask import Schema, abort
from apiflask.fields import Integer, String
from apiflask.schema_adapters.marshmallow import parser
from email_validator import EmailNotValidError
from flask import Request, current_app
from marshmallow import ValidationError
from marshmallow.validate import Range, Regexp
from webargs.multidictproxy import MultiDictProxy
from werkzeug.exceptions import HTTPException

from app.logins import normal_email
from app.models import SCOPES

A_TIME = "2026-11-21T09:30:00.123456+00:00"  # an example; RFC 3339


@parser.location_loader("json")
def load_json(request: Request, _schema: Schema) -> Any:
    """The request's body. 415 if it is not declared as JSON, 400 if it is not JSON."""
    if not request.is_json:
        abort(415)
    try:
        # RFC 8259: UTF-8, of which a byte order mark may be ignored. Given bytes,
        # json would guess the encoding and let lone surrogates pass.
        text = _read_body(request).decode("utf-8-sig")
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        abort(400, "the body is not valid JSON")


@parser.location_loader("form")
def load_form(request: Request, schema: Schema) -> Any:
    """The request's body as a form; of a field that is there twice, the first."""
    _read_body(request)
    return MultiDictProxy(request.form, schema)


def _read_body(request: Request) -> bytes:
    """The whole body. 413 if it is too large, 400 if it does not arrive as announced."""
    try:
        body = request.get_data()
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001  whatever the WSGI server raises on broken chunks
        abort(400, "the body could not be read")
    if request.content_length is None:
        # Werkzeug cuts a chunked body off at the limit, and says nothing.
        if len(body) >= current_app.config["MAX_CONTENT_LENGTH"]:
            abort(413)
    elif len(body) < request.content_length:
        abort(400, "the body ends before its Content-Length")
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON (RFC 8259)")


def about(example: Any, description: str | None = None, **more: Any) -> dict[str, Any]:
    """What the OpenAPI document says of a field beyond its type: its `metadata`."""
    said = {} if description is None else {"description": description}
    return {"examples": [example], **said, **more}


def link(example: str | None) -> dict[str, Any]:
    """`about`, of a `Function` that gives an address."""
    return about(example, type="string", format="uri-reference")


class Text(String):
    """A string that every database can store."""

    default_error_messages = {  # noqa: RUF012  a marshmallow declaration
        "required": "must be given",
        "null": "must be a string",
        "invalid": "must be a string",
        "unstorable": "must be without NUL characters and lone surrogates",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not any(isinstance(validator, Regexp) for validator in self.validators):
            self.metadata = {"pattern": r"^[^\x00]*$", **self.metadata}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, *args, **kwargs)
        if re.search("[\0\ud800-\udfff]", text):
            raise self.make_error("unstorable")
        return text


class Email(Text):
    """An e-mail address, in its normal form (RFC 5321; ASCII before the @)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metadata = {**about("alice@example.com", format="email"), **self.metadata}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, *args, **kwargs)
        try:
            return normal_email(text)
        except EmailNotValidError:
            raise ValidationError("must be a valid email address") from None


class NewPassword(Text):
    """A password that is to be; whether it is good enough, `passwords.refusal` says."""


class Scope(Text):
    """Names of scopes, separated by a space (RFC 6749, 3.3); given in our order, each once."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        one = "|".join(SCOPES)
        self.metadata = {**self.metadata, "pattern": f"^({one})( ({one}))*$"}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        names = super()._deserialize(value, *args, **kwargs).split(" ")
        if not set(names) <= set(SCOPES):
            raise ValidationError(f"must be one or more of: {' '.join(SCOPES)}")
        return " ".join(name for name in SCOPES if name in names)


class Seconds(Integer):
    """A whole number of seconds, be it `60` or `60.0`, and neither a text nor a truth value."""

    def __init__(self, lowest: int, highest: int, **kwargs: Any) -> None:
        text = f"must be a whole number from {lowest} to {highest} (seconds)"
        super().__init__(
            validate=Range(lowest, highest, error=text),
            error_messages={"invalid": text, "null": text},
            **kwargs,
        )

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if type(value) not in {int, float} or value % 1:
            raise self.make_error("invalid")
        return super()._deserialize(value, *args, **kwargs)


class Count(Integer):
    """A whole number in a query string, in ASCII digits: `int()` reads many more."""

    def __init__(self, highest: int, **kwargs: Any) -> None:
        text = f"must be a whole number from 1 to {highest}"
        super().__init__(
            validate=Range(1, highest, error=text), error_messages={"invalid": text}, **kwargs
        )

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise self.make_error("invalid")
        return super()._deserialize(value, *args, **kwargs)
