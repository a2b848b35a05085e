"""`/api/tokens`: log in, renew, log out, introspect, revoke."""

from datetime import timedelta
from typing import Any
from urllib.parse import quote

from apiflask import APIBlueprint, abort
from flask import current_app

from app.api.schemas import (
    TOKEN_HEADERS,
    GivenToken,
    Introspection,
    TokenInfo,
    TokenInfoQuery,
    TokenOut,
)
from app.auth import Credential, Kind, any_auth, basic_auth, public
from app.auth.challenges import refuse_scope, refuse_token
from app.auth.credential import find_credential
from app.clock import utc_now
from app.extensions import db
from app.http import audit, metrics
from app.http.audit import Event
from app.models import SCOPES, User

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
    token = user.get_token(current_app.config["TOKEN_LIFETIME_SECONDS"])
    db.session.commit()
    return _token_response(token, user), 200, _NO_STORE


@bp.put("/tokens")
@bp.auth_required(any_auth)
@bp.output(TokenOut)
def renew_token() -> Any:
    """Stay logged in: the same login token gets a new lifetime.

    A password has no token to renew: 403.
    """
    credential = any_auth.current_credential()
    if credential.kind is Kind.PASSWORD:
        abort(403, "a password cannot be renewed; send a login token, or POST to log in")
    config = current_app.config
    max_age = timedelta(days=config["LOGIN_MAX_AGE_DAYS"])
    user = credential.user
    if not user.renew_token(config["TOKEN_LIFETIME_SECONDS"], max_age):
        refuse_token("log in again: the password was given too long ago")
    db.session.commit()
    return _token_response(user.token, user), 200, _NO_STORE


def _token_response(token: str | None, user: User) -> dict[str, Any]:
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
    """Read the owner, scope and lifetime of your credentials, in the body and in headers."""
    credential = any_auth.current_credential()
    wanted = query_data.get("scope", "").split()
    if not set(wanted) <= set(credential.scopes):
        refuse_scope(wanted)
    answer = {
        "token_type": credential.token_type,
        "scope": credential.scope,
        "expires_in": credential.seconds_left,
        "user": {"id": credential.user_id, "username": credential.username},
    }
    # Quoted: an imported database may hold names that no header can.
    name = quote(credential.username, safe="")
    headers = {"X-User-Id": credential.user_id, "X-Username": name, "X-Scope": credential.scope}
    return answer, 200, _NO_STORE | headers


@bp.delete("/tokens")
@bp.auth_required(any_auth, roles=list(SCOPES))
@bp.output({}, status_code=204)
def revoke_token() -> Any:
    """Log out: end the token of this request; with a password, the user's login token."""
    _revoke(any_auth.current_credential(), Event.LOG_OUT)
    return ""


def _revoke(credential: Credential, event: Event) -> None:
    credential.revoke()
    db.session.commit()
    audit.record(event, credential.user_id)


@bp.post("/tokens/introspect")
@bp.auth_required(any_auth, roles=["introspect"])
@bp.input(GivenToken, location="form", arg_name="fields")
@bp.output(Introspection)
def introspect_token(fields: dict[str, str]) -> Any:
    """Tell another service whose token it holds (RFC 7662)."""
    credential = find_credential(fields["token"])
    expires_at = None if credential is None else credential.expires_at
    if metrics.current is not None:
        metrics.current.count_token("introspection", fields["token"], expires_at)
    if credential is None or expires_at is None or expires_at <= utc_now():
        return {"active": False}, 200, _NO_STORE
    answer = {
        "active": True,
        "scope": credential.scope,
        "username": credential.username,
        "sub": str(credential.user_id),
        "exp": int(expires_at.timestamp()),  # seconds since 1970
        "token_type": credential.token_type,
    }
    if credential.issued_at is not None:  # unknown for a token of an old database
        answer["iat"] = int(credential.issued_at.timestamp())
    if credential.name is not None:
        answer["client_id"] = credential.name
    if credential.note_use is not None:
        credential.note_use()
    return answer, 200, _NO_STORE


@bp.post("/tokens/revoke")
@public
@bp.input(GivenToken, location="form", arg_name="fields")
@bp.output({}, 200)
def revoke_given_token(fields: dict[str, str]) -> Any:
    """Revoke a token (RFC 7009); whoever has it may."""
    credential = find_credential(fields["token"])
    if credential is not None:
        _revoke(credential, Event.TOKEN_REVOKED)
    return {}
