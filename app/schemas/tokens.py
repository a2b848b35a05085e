"""Tokens, as requests and responses have them."""

from apiflask import Schema
from apiflask.fields import Boolean, DateTime, Function, Integer, List, Nested, String
from flask import url_for
from marshmallow import EXCLUDE
from marshmallow.validate import Length

from app.fields import Scope, Seconds, Text
from app.schemas.base import Body, PageLinks, PageMeta, Resource
from app.schemas.users import UserOut


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


class TokenInfoQuery(Schema):
    scope = Scope()


class GivenToken(Schema):
    """The form of RFC 7662, 2.1 and RFC 7009, 2.1; what kind of token it is, we see."""

    class Meta:
        unknown = EXCLUDE

    token = Text(required=True)


class Introspection(Schema):
    """RFC 7662, 2.2; of a token that is not active, `active` alone."""

    active = Boolean()
    scope = String()
    client_id = String()
    username = String()
    sub = String()
    exp = Integer()
    iat = Integer()
    token_type = String()


class NewAccessToken(Body):
    name = Text(required=True, validate=Length(1, 64, error="must be 1 to 64 characters long"))
    scope = Scope(required=True)
    expires_in = Seconds(60, 365 * 24 * 3600, load_default=30 * 24 * 3600)


class AccessTokenLinks(Schema):
    self = Function(lambda token: url_for("access_tokens.get_access_token", id=token.id))


class AccessTokenOut(Resource):
    id = Integer()
    name = String()
    scope = String()
    expires_in = Integer(attribute="seconds_left")
    created = DateTime()
    last_used = DateTime()
    links = Nested(AccessTokenLinks, data_key="_links")


class NewAccessTokenOut(AccessTokenOut):
    """With the token itself, this once."""

    token = String(attribute="text")


class AccessTokenCollection(Schema):
    items = List(Nested(AccessTokenOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")
