"""The state of the application and its rules; knows nothing of HTTP."""

from app.models.access_token import SCOPES, AccessToken
from app.models.activation import activate, deactivate
from app.models.errors import AlreadyTakenError, OutdatedError, TooManyError
from app.models.follow import Follow  # microblog
from app.models.known_source import KnownSource
from app.models.page import Page
from app.models.post import Post  # microblog
from app.models.total import Total
from app.models.user import User

__all__ = [
    "SCOPES",
    "AccessToken",
    "AlreadyTakenError",
    "Follow",  # microblog
    "KnownSource",
    "OutdatedError",
    "Page",
    "Post",  # microblog
    "TooManyError",
    "Total",
    "User",
    "activate",
    "deactivate",
]
