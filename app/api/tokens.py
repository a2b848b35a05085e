"""`/api/tokens`: log in, renew, log out, introspect, revoke."""

from datetime import timedelta
from typing import Any
from urllib.parse import quote

from apiflask import APIBlueprint, HTTPError, abort
from apiflask.schema_adapters.marshmallow import parser
from flask import current_app

from app.api.openapi import optional_body
from app.api.schemas import (
    TOKEN_HEADERS,
    GivenToken,
    Introspection,
    NewLogIn,
    TokenInfo,
    TokenInfoQuery,
    TokenOut,
)
from app.auth import (
    Credential,
    any_auth,
    is_closed_to,
    log_in_auth,
    open_to_unverified,
    public,
)
from app.auth.challenges import refuse_scope, refuse_token
from app.auth.credential import find_credential
from app.clock import utc_now
from app.extensions import db
from app.http import audit, logs, metrics
from app.http.audit import Event
from app.http.body import load_json
from app.http.headers import request
from app.models import SCOPES, DeviceSession

bp = APIBlueprint(
    "tokens", __name__, tag={"name": "Tokens", "description": "log in, stay logged in, log out"}
)

# Of a log in by JSON (RFC 6749, 5.1). With an `Authorization` header, each answer has it.
_NO_STORE = {"Cache-Control": "no-store"}


@bp.post("/tokens")
@bp.auth_required(log_in_auth)
@bp.doc(responses=[403])  # with REQUIRE_VERIFIED_EMAIL
@optional_body(NewLogIn)
@bp.output(TokenOut)
def get_token() -> Any:
    """Log in.

    With `device`, the token is of that device alone; without, all log ins share one.
    """
    device, client = _given_device(), _client()
    user = log_in_auth.current_user()
    config = current_app.config
    lifetime = config["TOKEN_LIFETIME_SECONDS"]
    if device is None:
        token = user.log_in(lifetime)
        user.token_address, user.token_user_agent = client
        db.session.commit()
        return _token_response(token, user.token_seconds_left), 200, _NO_STORE
    session = DeviceSession.start(user, device, lifetime, config["SESSIONS_PER_USER"])
    session.address, session.user_agent = client
    db.session.commit()
    return _token_response(session.text, session.seconds_left), 200, _NO_STORE


def _given_device() -> str | None:
    """Return the name of the device; any other body is ignored, as in the tutorial."""
    if not (request.has_body and request.is_json):
        return None
    try:
        body = load_json(request)
    except HTTPError:  # no JSON; for one that is too large, Werkzeug raises another
        return None
    if not isinstance(body, dict) or "device" not in body:
        return None
    device: str = parser.parse(NewLogIn(only=["device"]))["device"]
    return device


def _client() -> tuple[str | None, str | None]:
    """Return the address and user agent of the client, as long as the database stores."""
    address = (logs.address(request.remote_addr) or "")[:64] or None
    user_agent = request.user_agent.string.replace("\0", "")  # which no text may hold
    return address, user_agent[:256] or None


@bp.put("/tokens")
@bp.auth_required(any_auth)
@bp.output(TokenOut)
def renew_token() -> Any:
    """Stay logged in: the same login token gets a new lifetime.

    A password has no token to renew: 403.
    """
    credential = any_auth.current_credential()
    if credential.renew is None:
        abort(403, "a password cannot be renewed; send a login token, or POST to log in")
    config = current_app.config
    max_age = timedelta(days=config["LOGIN_MAX_AGE_DAYS"])
    renewed = credential.renew(config["TOKEN_LIFETIME_SECONDS"], max_age)
    if renewed is None:
        refuse_token("log in again: the password was given too long ago")
    db.session.commit()
    return _token_response(*renewed)


def _token_response(token: str | None, seconds_left: int) -> dict[str, Any]:
    return {
        "token": token,
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": seconds_left,
    }


@bp.get("/tokens")
@bp.auth_required(any_auth, roles=list(SCOPES))
@bp.input(TokenInfoQuery, location="query")
@bp.output(TokenInfo, headers=TOKEN_HEADERS)
def get_token_info(query_data: dict[str, str]) -> Any:
    """Read owner, scope, lifetime and roles of your credentials, in the body and in headers."""
    credential = any_auth.current_credential()
    wanted = query_data.get("scope", "").split()
    if not set(wanted) <= set(credential.scopes):
        refuse_scope(wanted)
    answer = {
        "token_type": credential.token_type,
        "scope": credential.scope,
        "expires_in": credential.seconds_left,
        "user": {"id": credential.user_id, "username": credential.username},
        "roles": list(credential.roles),
    }
    # Quoted: an imported database may hold names that no header can.
    name = quote(credential.username, safe="")
    headers = {
        "X-User-Id": credential.user_id,
        "X-Username": name,
        "X-Scope": credential.scope,
        "X-Roles": " ".join(credential.roles),
    }
    return answer, 200, headers


@bp.delete("/tokens")
@bp.auth_required(any_auth, roles=list(SCOPES))
@open_to_unverified
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
        return {"active": False}
    if is_closed_to(credential):
        return {"active": False}
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
    if credential.roles:
        answer["roles"] = list(credential.roles)
    if credential.note_use is not None:
        credential.note_use()
    return answer


@bp.post("/tokens/revoke")
@public
@bp.input(GivenToken, location="form", arg_name="fields")
@bp.output({})
def revoke_given_token(fields: dict[str, str]) -> Any:
    """Revoke a token (RFC 7009); whoever has it may."""
    credential = find_credential(fields["token"])
    expires_at = None if credential is None else credential.expires_at
    if credential is not None and expires_at is not None and expires_at > utc_now():
        _revoke(credential, Event.TOKEN_REVOKED)
    return {}
