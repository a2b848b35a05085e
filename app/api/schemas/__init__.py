"""JSON in, JSON out.

These schemas validate requests, dump responses, and describe both in the OpenAPI
document.
"""

from app.api.schemas.access_tokens import (
    AccessTokenCollection,
    AccessTokenOut,
    NewAccessToken,
    NewAccessTokenOut,
)
from app.api.schemas.base import LOCATION, Answer, Body, PageQuery, collection
from app.api.schemas.fields import Text
from app.api.schemas.tokens import (
    TOKEN_HEADERS,
    GivenToken,
    Introspection,
    TokenInfo,
    TokenInfoQuery,
    TokenOut,
)
from app.api.schemas.users import ChangedPassword, ChangedUser, NewUser, UserCollection, UserOut

__all__ = [
    "LOCATION",
    "TOKEN_HEADERS",
    "AccessTokenCollection",
    "AccessTokenOut",
    "Answer",
    "Body",
    "ChangedPassword",
    "ChangedUser",
    "GivenToken",
    "Introspection",
    "NewAccessToken",
    "NewAccessTokenOut",
    "NewUser",
    "PageQuery",
    "Text",
    "TokenInfo",
    "TokenInfoQuery",
    "TokenOut",
    "UserCollection",
    "UserOut",
    "collection",
]
