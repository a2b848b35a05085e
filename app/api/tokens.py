"""`/api/tokens`: log in, stay logged in, log out; look at a token, one's own or another's."""

from datetime import timedelta
from typing import Any
from urllib.parse import quote

from apiflask import APIBlueprint, abort
from flask import current_app

from app import audit
from app.audit import Event
from app.auth import (
    any_auth,
    basic_auth,
    find_token,
    granted_scope,
    is_by_token,
    note_use,
    password_required,
    presented_access_token,
    presented_password,
    public,
)
from app.challenges import log_in_again, refuse_scope
from app.columns import utc_now
from app.extensions import db
from app.models import SCOPES, AccessToken, OutdatedError, User
from app.schemas import (
    TOKEN_HEADERS,
    GivenToken,
    Introspection,
    TokenInfo,
    TokenInfoQuery,
    TokenOut,
)

bp = APIBlueprint(
    "tokens", __name__, tag={"name": "Tokens", "description": "log in, stay logged in, log out"}
)

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
    answer = _answer(token, user)
    db.session.commit()
    return answer, 200, _NO_STORE


@bp.put("/tokens")
@bp.auth_required(any_auth)
@bp.output(TokenOut)
def renew_token() -> Any:
    """Stay logged in: the same token, which lives on.

    A password by itself has nothing to renew: 403.
    """
    user = any_auth.current_user()
    if not is_by_token():
        abort(403, "this renews the token it comes with; with a password, POST here")
    config = current_app.config
    max_age = timedelta(days=config["LOGIN_MAX_AGE_DAYS"])
    if not user.renew_token(config["TOKEN_LIFETIME_SECONDS"], max_age):
        log_in_again()
    answer = _answer(user.token, user)
    db.session.commit()
    return answer, 200, _NO_STORE


def _answer(token: str | None, user: User) -> dict[str, Any]:
    return {
        "token": token,
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": user.token_seconds_left,
    }


@bp.get("/tokens")
@bp.auth_required(any_auth, roles=list(SCOPES))
@bp.input(TokenInfoQuery, location="query")
@bp.output(TokenInfo, headers=TOKEN_HEADERS)
def get_token_info(query_data: dict[str, str]) -> Any:
    """Tell whose credentials these are, in the body and, for a proxy, in headers."""
    user = any_auth.current_user()
    wanted = query_data.get("scope", "").split()
    if not set(wanted) <= set(granted_scope().split()):
        refuse_scope(wanted)
    by_token = is_by_token()
    access_token = presented_access_token()
    seconds_left = user.token_seconds_left if access_token is None else access_token.seconds_left
    answer = {
        "token_type": "Bearer" if by_token else "Basic",
        "scope": granted_scope(),
        "expires_in": seconds_left if by_token else None,
        "user": user,
    }
    # Quoted, for the names of an older database; those registered here need it not.
    name = quote(user.username, safe="")
    headers = {"X-User-Id": user.id, "X-Username": name, "X-Scope": granted_scope()}
    return answer, 200, _NO_STORE | headers


@bp.delete("/tokens")
@bp.auth_required(any_auth, roles=list(SCOPES))
@bp.output({}, status_code=204)
def revoke_token() -> Any:
    """Log out: the presented token ends, or with a password the one the user has."""
    _end(any_auth.current_user(), presented_access_token(), Event.LOG_OUT)
    return ""


def _end(user: User, access_token: AccessToken | None, event: Event) -> None:
    """Ends the access token or, without one, the token of the user's log in."""
    if access_token is None:
        user.revoke_token()
    else:
        access_token.revoke()
    db.session.commit()
    audit.record(event, user.id)


@bp.post("/tokens/introspect")
@bp.auth_required(any_auth, roles=["introspect"])
@bp.input(GivenToken, location="form", arg_name="fields")
@bp.output(Introspection)
def introspect_token(fields: dict[str, str]) -> Any:
    """Tell whose token that is, for another service (RFC 7662)."""
    user, access_token = find_token(fields["token"])
    held = access_token or user
    expiration = None if held is None else held.token_expiration
    if user is None or expiration is None or expiration <= utc_now():
        return {"active": False}, 200, _NO_STORE
    began = user.logged_in_at if access_token is None else access_token.created
    answer = {
        "active": True,
        "scope": " ".join(SCOPES) if access_token is None else access_token.scope,
        "username": user.username,
        "sub": str(user.id),
        "exp": int(expiration.timestamp()),  # seconds since 1970
        "token_type": "Bearer",
    }
    if began is not None:  # it is of a login token that is older than the column
        answer["iat"] = int(began.timestamp())
    if access_token is not None:
        answer["client_id"] = access_token.name
        note_use(access_token)
    return answer, 200, _NO_STORE


@bp.post("/tokens/revoke")
@public
@bp.input(GivenToken, location="form", arg_name="fields")
@bp.output({}, 200)
def revoke_given_token(fields: dict[str, str]) -> Any:
    """End that token, whatever it was (RFC 7009); whoever has it may end it."""
    user, access_token = find_token(fields["token"])
    if user is not None:
        _end(user, access_token, Event.TOKEN_REVOKED)
    return {}
