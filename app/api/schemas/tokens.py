"""Tokens, in requests and responses."""

from typing import Any

from apiflask import Schema
from apiflask.fields import Boolean, Integer, List, Nested, String
from marshmallow import EXCLUDE, ValidationError, pre_load
from marshmallow.fields import Field

from app.api.schemas.base import Answer, Body
from app.api.schemas.fields import AN_ACCESS_TOKEN, Line, Scope, Text, TokenText, about
from app.api.schemas.users import UserName

A_LOGIN_TOKEN = "mbl_6kQ0ZtWc4mXUwb1YhJr8sD2eLfVgP7nE3xaz"


class NewLogIn(Body):
    """Nothing of it is required: the user name and password may come in the header."""

    username = Text(metadata=about("alice", "user name or e-mail address"))
    password = Text(metadata=about("correct horse battery", format="password"))
    device = Line(1, 64, metadata=about("Alice's phone", "gets a token of its own"))


class TokenOut(Answer):
    """The response to a log in: `token` is the tutorial's name, the others are RFC 6749's."""

    token = String(metadata=about(A_LOGIN_TOKEN))
    access_token = String(metadata=about(A_LOGIN_TOKEN, "the same as `token`"))
    token_type = String(metadata=about("Bearer"))
    expires_in = Integer(metadata=about(3600, "seconds until expiry"))


class TokenInfo(Answer):
    token_type = String(metadata=about("Bearer", "`Basic` for password auth"))
    scope = String(metadata=about("read write", "what the credentials allow"))
    expires_in = Integer(
        allow_none=True, metadata=about(3600, "seconds until expiry; null for password auth")
    )
    user = Nested(UserName)
    roles = List(String(), metadata=about(["admin"], "of the user; none for an access token"))


# For `output(headers=...)`: the same for a proxy, which does not read bodies.
TOKEN_HEADERS: dict[str, Field[Any] | type] = {
    "X-User-Id": Integer(required=True, metadata=about(1)),
    "X-Username": String(required=True, metadata=about("alice")),
    "X-Scope": String(required=True, metadata=about("read write")),
    "X-Roles": String(required=True, metadata=about("admin", "separated by spaces, or empty")),
}


class TokenInfoQuery(Schema):
    scope = Scope(
        metadata=about("read", "required scopes, separated by spaces; 403 if one is missing")
    )

    @pre_load
    def refuse_others(self, data: Any, **_: Any) -> Any:
        """Refuse a misspelled or a second scope: a proxy lets a request through on any 2xx."""
        _refuse_two(data, "scope")
        if unknown := set(data) - {"scope"}:
            raise ValidationError(dict.fromkeys(unknown, "there is no such parameter"))
        return data


class GivenToken(Schema):
    """The form of RFC 7662, 2.1 and RFC 7009, 2.1; a `token_type_hint` is ignored."""

    class Meta:
        unknown = EXCLUDE

    token = TokenText(required=True, metadata=about(AN_ACCESS_TOKEN))

    @pre_load
    def refuse_two(self, data: Any, **_: Any) -> Any:
        """Refuse a form with two tokens, of which one would be passed over (RFC 6749, 3.2)."""
        _refuse_two(data, "token")
        return data


def _refuse_two(data: Any, name: str) -> None:
    if len(data.getlist(name)) > 1:
        raise ValidationError({name: "must be given once"})


class Introspection(Answer):
    """RFC 7662, 2.2; only `active` for a token that is not active."""

    active = Boolean(metadata=about(True, "false if unknown, expired or revoked"))
    scope = String(metadata=about("read write", optional=True))
    client_id = String(
        metadata=about("phone", "name of an access token, chosen by its owner", optional=True)
    )
    username = String(metadata=about("alice", optional=True))
    sub = String(metadata=about("1", "id of the user", optional=True))
    exp = Integer(metadata=about(1797845400, "expiry, in seconds since 1970", optional=True))
    iat = Integer(metadata=about(1795253400, "issue, in seconds since 1970", optional=True))
    token_type = String(metadata=about("Bearer", optional=True))
    roles = List(
        String(), metadata=about(["admin"], "of the user; not for an access token", optional=True)
    )
