"""The state of the application and its rules; knows nothing of HTTP."""

from app.models.follow import Follow, FollowsOneselfError
from app.models.page import Page
from app.models.post import Post
from app.models.total import Total
from app.models.user import AlreadyTakenError, User

__all__ = [
    "AlreadyTakenError",
    "Follow",
    "FollowsOneselfError",
    "Page",
    "Post",
    "Total",
    "User",
]
