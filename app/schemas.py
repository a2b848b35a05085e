"""JSON in, JSON out.

What a request may say and what a response looks like is written here and
nowhere else: these schemas validate the one, write the other, and describe both.
"""

import json
import re
from typing import Any, NoReturn

from apiflask import Schema, abort
from apiflask.fields import DateTime, Function, Integer, List, Nested, String
from apiflask.schema_adapters.marshmallow import parser
from email_validator import EmailNotValidError
from flask import Request, current_app, g, url_for
from flask_sqlalchemy.pagination import Pagination
from marshmallow import EXCLUDE, ValidationError, missing, pre_load
from marshmallow.validate import Length, Range, Regexp
from werkzeug.exceptions import HTTPException

from app import passwords
from app.models.user import normal_email

# -- Reading a request -----------------------------------------------------------------


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


class Text(String):
    """A string that every database can store."""

    default_error_messages = {  # noqa: RUF012  a marshmallow declaration
        "required": "must be given",
        "null": "must be a string",
        "invalid": "must be a string",
        "unstorable": "must be without NUL characters and lone surrogates",
    }

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, *args, **kwargs)
        if re.search("[\0\ud800-\udfff]", text):
            raise self.make_error("unstorable")
        return text


class Email(Text):
    """An e-mail address, in its normal form (RFC 5321; ASCII before the @)."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, *args, **kwargs)
        try:
            return normal_email(text)
        except EmailNotValidError:
            raise ValidationError("must be a valid email address") from None


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


class Body(Schema):
    """A JSON object; what it holds beyond the fields is ignored."""

    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": "the body must be a JSON object"}  # noqa: RUF012


# -- Users -----------------------------------------------------------------------------


def _check_password(password: str) -> None:
    refusal = passwords.refusal(password)
    if refusal is not None:
        raise ValidationError(refusal)


class ChangedUser(Body):
    username = Text(
        validate=Regexp(
            # Not `$` alone, which lets a line break at the end pass.
            r"^[A-Za-z0-9._-]{1,64}(?!\n)$",
            error="must be 1 to 64 of the characters A-Z a-z 0-9 . _ -",
        )
    )
    email = Email()
    about_me = Text(
        allow_none=True, validate=Length(max=140, error="must be at most {max} characters long")
    )


class NewUser(ChangedUser):
    password = Text(required=True, validate=_check_password)

    @pre_load
    def require_fields(self, data: Any, **_: Any) -> Any:
        text = "must include username, email and password fields"
        if isinstance(data, dict):
            absent = [name for name in ("username", "email", "password") if name not in data]
            if absent:
                raise ValidationError({name: [text] for name in absent})
        return data


class UserLinks(Schema):
    self = Function(lambda user: url_for("users.get_user", id=user.id))
    avatar = Function(lambda user: user.avatar(128))


class UserOut(Schema):
    id = Integer()
    username = String()
    # Only in one's own user.
    email = Function(lambda user: user.email if user == g.get("flask_httpauth_user") else missing)
    about_me = String()
    last_seen = DateTime()
    links = Nested(UserLinks, data_key="_links")

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        # The links of a user are made from the whole user.
        return obj if attr == "links" else super().get_attribute(obj, attr, default)


# -- Collections -----------------------------------------------------------------------


class PageQuery(Schema):
    page = Count(2**31 - 1, load_default=1)
    per_page = Count(100, load_default=10)


class PageMeta(Schema):
    page = Integer()
    per_page = Integer()
    total_pages = Integer()
    total_items = Integer()


class PageLinks(Schema):
    self = String()
    next = String()
    prev = String()


class UserCollection(Schema):
    items = List(Nested(UserOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")


def collection(pagination: Pagination, endpoint: str, **values: Any) -> dict[str, Any]:
    """A page in the form that a collection schema writes.

    Args:
        pagination: the page.
        endpoint: of the route that answers with it.
        values: of the route's variables.
    """

    def link(page: int | None) -> str | None:
        if page is None:
            return None
        return url_for(endpoint, page=page, per_page=pagination.per_page, **values)

    return {
        "items": pagination.items,
        "meta": {
            "page": pagination.page,
            "per_page": pagination.per_page,
            "total_pages": pagination.pages,
            "total_items": pagination.total,
        },
        "links": {
            "self": link(pagination.page),
            "next": link(pagination.next_num),
            "prev": link(pagination.prev_num),
        },
    }


# -- Tokens ----------------------------------------------------------------------------


class TokenOut(Schema):
    """What a log in answers: `token` is the tutorial's name, the rest is RFC 6749's."""

    token = String()
    access_token = String()
    token_type = String()
    expires_in = Integer()


class TokenInfo(Schema):
    """What the presented credentials are worth; a password has no `expires_in`."""

    token_type = String()
    scope = String()
    expires_in = Integer()
    user = Nested(UserOut, only=("id", "username"))
