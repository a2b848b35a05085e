"""The state of the application and its rules; knows nothing of HTTP."""

from app.models.access_token import SCOPES, AccessToken
from app.models.activation import activate, deactivate
from app.models.counts import recount
from app.models.device_session import DeviceSession
from app.models.directory import page_of_everybody
from app.models.email_address import (
    address_to_verify,
    new_address,
    note_verified,
    verify_address,
)
from app.models.errors import AlreadyTakenError, OutdatedError, OverlapError, TooManyError
from app.models.follow import Follow  # microblog
from app.models.known_source import KnownSource
from app.models.outgoing_mail import OutgoingMail
from app.models.page import Page
from app.models.post import Post  # microblog
from app.models.reserved_name import ReservedName
from app.models.roles import grant_role, revoke_role
from app.models.session import Session
from app.models.total import Total
from app.models.user import User

__all__ = [
    "SCOPES",
    "AccessToken",
    "AlreadyTakenError",
    "DeviceSession",
    "Follow",  # microblog
    "KnownSource",
    "OutdatedError",
    "OutgoingMail",
    "OverlapError",
    "Page",
    "Post",  # microblog
    "ReservedName",
    "Session",
    "TooManyError",
    "Total",
    "User",
    "activate",
    "address_to_verify",
    "deactivate",
    "grant_role",
    "new_address",
    "note_verified",
    "page_of_everybody",
    "recount",
    "revoke_role",
    "verify_address",
]
