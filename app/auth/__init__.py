"""Who is asking, and what they may do."""

from apiflask import APIFlask

from app.auth import access
from app.auth.access import declared, methods_of, own_account, public
from app.auth.credential import ACCOUNT, Credential, Kind, current_credential
from app.auth.http_auth import any_auth, basic_auth, check_again, token_auth

__all__ = [
    "ACCOUNT",
    "Credential",
    "Kind",
    "any_auth",
    "basic_auth",
    "check_again",
    "current_credential",
    "declared",
    "init_app",
    "methods_of",
    "own_account",
    "public",
    "token_auth",
]


def init_app(app: APIFlask) -> None:
    access.init_app(app)
