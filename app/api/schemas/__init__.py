"""JSON in, JSON out.

These schemas validate requests, dump responses, and describe both in the OpenAPI
document.
"""

from app.api.schemas.access_tokens import (
    AccessTokenCollection,
    AccessTokenOut,
    NewAccessToken,
    NewAccessTokenOut,
    Rotation,
)
from app.api.schemas.admin import AdminUserCollection, AdminUserOut, UserSearchQuery
from app.api.schemas.base import LOCATION, Answer, Body, PageQuery, StrictBody, collection
from app.api.schemas.fields import Text
from app.api.schemas.mail import ForgottenPassword, LinkToken, ResetPassword
from app.api.schemas.sessions import SessionCollection
from app.api.schemas.tokens import (
    TOKEN_HEADERS,
    GivenToken,
    Introspection,
    NewLogIn,
    TokenInfo,
    TokenInfoQuery,
    TokenOut,
)
from app.api.schemas.users import (
    ChangedPassword,
    ChangedUser,
    NewUser,
    UserCollection,
    UserOut,
    refused_password,
)

__all__ = [
    "LOCATION",
    "TOKEN_HEADERS",
    "AccessTokenCollection",
    "AccessTokenOut",
    "AdminUserCollection",
    "AdminUserOut",
    "Answer",
    "Body",
    "ChangedPassword",
    "ChangedUser",
    "ForgottenPassword",
    "GivenToken",
    "Introspection",
    "LinkToken",
    "NewAccessToken",
    "NewAccessTokenOut",
    "NewLogIn",
    "NewUser",
    "PageQuery",
    "ResetPassword",
    "Rotation",
    "SessionCollection",
    "StrictBody",
    "Text",
    "TokenInfo",
    "TokenInfoQuery",
    "TokenOut",
    "UserCollection",
    "UserOut",
    "UserSearchQuery",
    "collection",
    "refused_password",
]
