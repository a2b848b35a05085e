"""`/api/access-tokens`: make tokens for devices, scripts and services; list and revoke them."""

from typing import Any

from apiflask import APIBlueprint, abort
from flask import current_app, url_for

from app import audit
from app.audit import Event
from app.auth import any_auth, password_required
from app.errors import found
from app.extensions import db
from app.models import AccessToken, AlreadyTakenError, OutdatedError, TooManyError
from app.openapi import by_id
from app.schemas import (
    LOCATION,
    AccessTokenCollection,
    AccessTokenOut,
    NewAccessToken,
    NewAccessTokenOut,
    PageQuery,
    collection,
)

bp = APIBlueprint(
    "access_tokens",
    __name__,
    tag={"name": "Access tokens", "description": "for devices, scripts and other services"},
)

# No scope opens these: whoever has an access token could give it any other.


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
    """Make an access token; its text is in this answer and nowhere else."""
    user = any_auth.current_user()
    most = current_app.config["ACCESS_TOKENS_PER_USER"]
    try:
        access_token = user.create_access_token(**fields, most=most)
    except AlreadyTakenError:
        abort(400, detail={"json": {"name": ["must be other than those of your live tokens"]}})
    except TooManyError:
        abort(400, f"you have {most} access tokens, which is the most; revoke one first")
    except OutdatedError:
        password_required(401)
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
    """List one's own live access tokens, by ascending id."""
    page = AccessToken.page_of(any_auth.current_user().id, **query_data)
    return collection(page, ".get_access_tokens")


@bp.get("/access-tokens/<int:id>")
@bp.auth_required(any_auth)
@bp.output(AccessTokenOut)
def get_access_token(id: int) -> Any:
    """Read one of one's own live access tokens."""
    return found(AccessToken.find_of(any_auth.current_user().id, id))


@bp.delete("/access-tokens/<int:id>")
@bp.auth_required(any_auth)
@bp.output({}, status_code=204)
def revoke_access_token(id: int) -> Any:
    """Revoke one of one's own access tokens."""
    user = any_auth.current_user()
    found(AccessToken.find_of(user.id, id)).revoke()
    db.session.commit()
    audit.record(Event.TOKEN_REVOKED, user.id)
    return ""
