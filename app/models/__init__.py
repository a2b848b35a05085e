"""The state of the application and its rules; knows nothing of HTTP."""

from app.models.user import AlreadyTakenError, User

__all__ = ["AlreadyTakenError", "User"]
