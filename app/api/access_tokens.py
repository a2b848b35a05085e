"""`/api/access-tokens`: make, list and revoke tokens for scripts and services."""

from typing import Any

from apiflask import APIBlueprint, abort
from flask import current_app, url_for

from app.api.openapi import by_id
from app.api.schemas import (
    LOCATION,
    AccessTokenCollection,
    AccessTokenOut,
    NewAccessToken,
    NewAccessTokenOut,
    PageQuery,
    collection,
)
from app.auth import any_auth, check_again
from app.extensions import db
from app.http import audit
from app.http.audit import Event
from app.http.errors import found
from app.models import AccessToken, AlreadyTakenError, TooManyError

bp = APIBlueprint(
    "access_tokens",
    __name__,
    tag={"name": "Access tokens", "description": "for scripts and other services"},
)

# No scope opens these routes: an access token could make another with more rights.


@bp.post("/access-tokens")
@bp.auth_required(any_auth)
@bp.input(NewAccessToken, arg_name="fields")
@bp.output(
    NewAccessTokenOut,
    201,
    headers=LOCATION,
    links=by_id("get_access_token", "revoke_access_token"),
)
def create_access_token(fields: dict[str, Any]) -> Any:
    """Make an access token; only this response has its text."""
    user = any_auth.current_user()
    most = current_app.config["ACCESS_TOKENS_PER_USER"]
    check_again()  # else a user who was just deactivated would be 404
    try:
        access_token = AccessToken.create(user, **fields, most=most)
    except AlreadyTakenError:
        abort(400, detail={"json": {"name": ["must be other than those of your live tokens"]}})
    except TooManyError:
        abort(400, f"limit of {most} access tokens reached; revoke one first")
    db.session.commit()
    audit.record(Event.TOKEN_CREATED, user.id)
    headers = {
        "Location": url_for(".get_access_token", id=access_token.id),
        "Cache-Control": "no-store",
    }
    return access_token, 201, headers


@bp.get("/access-tokens")
@bp.auth_required(any_auth)
@bp.input(PageQuery, location="query")
@bp.output(AccessTokenCollection)
def get_access_tokens(query_data: dict[str, int]) -> Any:
    """List your live access tokens, by ascending id."""
    page = AccessToken.page_of(any_auth.current_credential().user_id, **query_data)
    return collection(page, ".get_access_tokens")


@bp.get("/access-tokens/<int:id>")
@bp.auth_required(any_auth)
@bp.output(AccessTokenOut)
def get_access_token(id: int) -> Any:
    """Read one of your live access tokens."""
    return found(AccessToken.find_of(any_auth.current_credential().user_id, id))


@bp.delete("/access-tokens/<int:id>")
@bp.auth_required(any_auth)
@bp.output({}, status_code=204)
def revoke_access_token(id: int) -> Any:
    """Revoke one of your access tokens."""
    user = any_auth.current_user()
    found(AccessToken.find_of(user.id, id)).revoke()
    db.session.commit()
    audit.record(Event.TOKEN_REVOKED, user.id)
    return ""
