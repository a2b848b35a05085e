"""Who is asking, and what they may do."""

from apiflask import APIFlask

from app.auth import access
from app.auth.access import (
    declared,
    fresh,
    is_closed_to,
    methods_of,
    open_to_unverified,
    own_account,
    public,
    require_fresh_log_in,
    roles_required,
)
from app.auth.credential import ACCOUNT, Credential, Kind, current_credential
from app.auth.http_auth import any_auth, basic_auth, log_in_auth, token_auth
from app.auth.second_check import check_again

__all__ = [
    "ACCOUNT",
    "Credential",
    "Kind",
    "any_auth",
    "basic_auth",
    "check_again",
    "current_credential",
    "declared",
    "fresh",
    "init_app",
    "is_closed_to",
    "log_in_auth",
    "methods_of",
    "open_to_unverified",
    "own_account",
    "public",
    "require_fresh_log_in",
    "roles_required",
    "token_auth",
]


def init_app(app: APIFlask) -> None:
    access.init_app(app)
