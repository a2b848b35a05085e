"""Tokens, as requests and responses have them."""

from typing import Any

from apiflask import Schema
from apiflask.fields import Boolean, DateTime, Function, Integer, List, Nested, String
from flask import url_for
from marshmallow import EXCLUDE
from marshmallow.fields import Field
from marshmallow.validate import Length

from app.fields import A_TIME, Scope, Seconds, Text, about, link
from app.schemas.base import Answer, Body, PageLinks, PageMeta, Resource
from app.schemas.users import UserName

_LOGIN_TOKEN = "mbl_6kQ0ZtWc4mXUwb1YhJr8sD2eLfVgP7nE3xaz"
_ACCESS_TOKEN = "mba_6kQ0ZtWc4mXUwb1YhJr8sD2eLfVgP7nE3xaz"


class TokenOut(Answer):
    """What a log in answers: `token` is the tutorial's name, the rest is RFC 6749's."""

    token = String(metadata=about(_LOGIN_TOKEN))
    access_token = String(metadata=about(_LOGIN_TOKEN, "the same, under the name of RFC 6749"))
    token_type = String(metadata=about("Bearer"))
    expires_in = Integer(metadata=about(3600, "seconds that it lives on"))


class TokenInfo(Answer):
    token_type = String(metadata=about("Bearer", "or `Basic`, with a password"))
    scope = String(metadata=about("read write", "what the credentials open"))
    expires_in = Integer(
        allow_none=True, metadata=about(3600, "seconds that it lives on; null of a password")
    )
    user = Nested(UserName)


# For `output(headers=...)`: the same, for a proxy that does not read bodies.
TOKEN_HEADERS: dict[str, Field[Any] | type] = {
    "X-User-Id": Integer(required=True, metadata=about(1)),
    "X-Username": String(required=True, metadata=about("alice")),
    "X-Scope": String(required=True, metadata=about("read write")),
}


class TokenInfoQuery(Schema):
    scope = Scope(metadata=about("read", "what the credentials must open, or 403"))


class GivenToken(Schema):
    """The form of RFC 7662, 2.1 and RFC 7009, 2.1; what kind of token it is, we see."""

    class Meta:
        unknown = EXCLUDE

    token = Text(required=True, metadata=about(_ACCESS_TOKEN))


class Introspection(Answer):
    """RFC 7662, 2.2; of a token that is not active, `active` alone."""

    active = Boolean(metadata=about(True, "false of what is unknown, expired or revoked"))
    scope = String(metadata=about("read write", optional=True))
    client_id = String(
        metadata=about("phone", "name of an access token, its owner's choice", optional=True)
    )
    username = String(metadata=about("alice", optional=True))
    sub = String(metadata=about("1", "id of the user", optional=True))
    exp = Integer(metadata=about(1797845400, "end, in seconds since 1970", optional=True))
    iat = Integer(metadata=about(1795253400, "begin, in seconds since 1970", optional=True))
    token_type = String(metadata=about("Bearer", optional=True))


class NewAccessToken(Body):
    name = Text(
        required=True,
        validate=Length(1, 64, error="must be 1 to 64 characters long"),
        metadata=about("phone", "other than those of your live tokens"),
    )
    scope = Scope(required=True, metadata=about("read write"))
    expires_in = Seconds(
        60,
        365 * 24 * 3600,
        load_default=30 * 24 * 3600,
        metadata=about(30 * 24 * 3600, "seconds that it shall live"),
    )


class AccessTokenLinks(Answer):
    self = Function(
        lambda token: url_for("access_tokens.get_access_token", id=token.id),
        metadata=link("/api/access-tokens/1"),
    )


class AccessTokenOut(Resource):
    id = Integer(metadata=about(1))
    name = String(metadata=about("phone"))
    scope = String(metadata=about("read write"))
    expires_in = Integer(
        attribute="seconds_left", metadata=about(30 * 24 * 3600, "seconds that it lives on")
    )
    created = DateTime(metadata=about(A_TIME))
    last_used = DateTime(allow_none=True, metadata=about(A_TIME, "to the hour; null: never"))
    links = Nested(AccessTokenLinks, data_key="_links")


class NewAccessTokenOut(AccessTokenOut):
    """With the token itself, this once."""

    token = String(attribute="text", metadata=about(_ACCESS_TOKEN, "shown this once"))


class AccessTokenCollection(Answer):
    items = List(Nested(AccessTokenOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")
