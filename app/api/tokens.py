"""`/api/tokens`: log in, look at what one holds, log out."""

from typing import Any
from urllib.parse import quote

from apiflask import APIBlueprint
from flask import current_app

from app import audit
from app.audit import Event
from app.auth import (
    ALL_SCOPES,
    any_auth,
    basic_auth,
    is_by_token,
    password_required,
    presented_password,
)
from app.extensions import db
from app.models import OutdatedError
from app.schemas import TokenInfo, TokenOut

bp = APIBlueprint("tokens", __name__)

_NO_STORE = {"Cache-Control": "no-store"}  # RFC 6749, 5.1


@bp.post("/tokens")
@bp.auth_required(basic_auth)
@bp.output(TokenOut)
def get_token() -> Any:
    """Log in."""
    user = basic_auth.current_user()
    try:
        user.renew_password_hash(presented_password())
        token = user.get_token(current_app.config["TOKEN_LIFETIME_SECONDS"])
    except OutdatedError:
        password_required(401)
    answer = {
        "token": token,
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": user.token_seconds_left,
    }
    db.session.commit()
    return answer, 200, _NO_STORE


@bp.get("/tokens")
@bp.auth_required(any_auth)
@bp.output(TokenInfo)
def get_token_info() -> Any:
    """Whose credentials these are, in the body and, for a proxy, in headers."""
    user = any_auth.current_user()
    by_token = is_by_token()
    answer = {
        "token_type": "Bearer" if by_token else "Basic",
        "scope": ALL_SCOPES,
        "expires_in": user.token_seconds_left if by_token else None,
        "user": user,
    }
    # Quoted, for the names of an older database; those registered here need it not.
    name = quote(user.username, safe="")
    headers = {"X-User-Id": user.id, "X-Username": name, "X-Scope": ALL_SCOPES}
    return answer, 200, _NO_STORE | headers


@bp.delete("/tokens")
@bp.auth_required(any_auth)
@bp.output({}, status_code=204)
def revoke_token() -> Any:
    """Log out: the presented token ends, or with a password the one the user has."""
    user = any_auth.current_user()
    user.revoke_token()
    db.session.commit()
    audit.record(Event.LOG_OUT, user.id)
    return ""
