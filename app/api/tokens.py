"""`/api/tokens`: log in, look at what one holds, log out."""

from typing import Any

from apiflask import APIBlueprint
from flask import current_app

from app.auth import ALL_SCOPES, any_auth, basic_auth, presented_token
from app.columns import utc_now
from app.extensions import db
from app.models import User
from app.schemas import TokenInfo, TokenOut

bp = APIBlueprint("tokens", __name__)

_NO_STORE = {"Cache-Control": "no-store"}  # RFC 6749, 5.1


@bp.post("/tokens")
@bp.auth_required(basic_auth)
@bp.output(TokenOut)
def get_token() -> Any:
    """Log in."""
    user = basic_auth.current_user()
    token = user.get_token(current_app.config["TOKEN_LIFETIME_SECONDS"])
    answer = {
        "token": token,
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": _seconds_left(user),
    }
    db.session.commit()
    return answer, 200, _NO_STORE


@bp.get("/tokens")
@bp.auth_required(any_auth)
@bp.output(TokenInfo)
def get_token_info() -> Any:
    """Whose credentials these are, in the body and, for a proxy, in headers."""
    user = any_auth.current_user()
    by_token = presented_token() is not None
    answer = {
        "token_type": "Bearer" if by_token else "Basic",
        "scope": ALL_SCOPES,
        "expires_in": _seconds_left(user) if by_token else None,
        "user": user,
    }
    headers = {"X-User-Id": user.id, "X-Username": user.username, "X-Scope": ALL_SCOPES}
    return answer, 200, _NO_STORE | headers


@bp.delete("/tokens")
@bp.auth_required(any_auth)
@bp.output({}, status_code=204)
def revoke_token() -> Any:
    """Log out: the presented token ends, or with a password the one the user has."""
    any_auth.current_user().revoke_token()
    db.session.commit()
    return ""


def _seconds_left(user: User) -> int:
    assert user.token_expiration is not None  # noqa: S101  the token has just been checked or made
    return round((user.token_expiration - utc_now()).total_seconds())
