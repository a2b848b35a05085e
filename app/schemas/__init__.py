"""JSON in, JSON out.

What a request may say and what a response looks like is written here and
nowhere else: these schemas validate the one, write the other, and describe both.
"""

from app.fields import Text
from app.schemas.base import LOCATION, Answer, Body, PageQuery, StreamQuery, collection, stream
from app.schemas.posts import NewPost, PostOut, PostStream
from app.schemas.tokens import (
    TOKEN_HEADERS,
    AccessTokenCollection,
    AccessTokenOut,
    GivenToken,
    Introspection,
    NewAccessToken,
    NewAccessTokenOut,
    TokenInfo,
    TokenInfoQuery,
    TokenOut,
)
from app.schemas.users import ChangedPassword, ChangedUser, NewUser, UserCollection, UserOut

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
    "NewPost",
    "NewUser",
    "PageQuery",
    "PostOut",
    "PostStream",
    "StreamQuery",
    "Text",
    "TokenInfo",
    "TokenInfoQuery",
    "TokenOut",
    "UserCollection",
    "UserOut",
    "collection",
    "stream",
]
