"""`/api/access-tokens`: make, list, rotate and revoke tokens for scripts and services."""

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
    Rotation,
    collection,
)
from app.auth import any_auth, check_again, fresh
from app.extensions import db
from app.http import audit, logs
from app.http.audit import Event
from app.http.errors import found
from app.http.headers import request
from app.mail.outbox import put_token_notice
from app.models import AccessToken, AlreadyTakenError, OverlapError, TooManyError

bp = APIBlueprint(
    "access_tokens",
    __name__,
    tag={"name": "Access tokens", "description": "for scripts and other services"},
)

# No scope opens these routes: an access token could make another with more rights.


@bp.post("/access-tokens")
@bp.auth_required(any_auth)
@fresh
@bp.input(NewAccessToken, arg_name="fields")
@bp.output(
    NewAccessTokenOut,
    201,
    headers=LOCATION,
    links=by_id("get_access_token", "rotate_access_token", "revoke_access_token"),
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
    put_token_notice(user, access_token, logs.address(request.remote_addr))
    db.session.commit()
    audit.record(Event.TOKEN_CREATED, user.id)
    location = {"Location": url_for(".get_access_token", id=access_token.id)}
    return access_token, 201, location


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


@bp.post("/access-tokens/<int:id>/rotation")
@bp.auth_required(any_auth)
@fresh
@bp.input(Rotation, arg_name="fields")
@bp.output(NewAccessTokenOut)
@bp.doc(responses={409: "The text before the last rotation still works."})
def rotate_access_token(id: int, fields: dict[str, int]) -> Any:
    """Give one of your access tokens a new text; only this response has it.

    The old text still works for `overlap_seconds`. One overlap at a time; without an
    overlap, both the old text and the one before it end at once.
    """
    user_id = any_auth.current_credential().user_id
    try:
        access_token = found(AccessToken.rotate(user_id, id, **fields))
    except OverlapError as error:
        text = "the text before the last rotation still works for"
        end = "wait, or end it with overlap_seconds 0"
        abort(409, f"{text} {error.seconds_left} s; {end}")
    db.session.commit()
    audit.record(Event.TOKEN_ROTATED, user_id)
    return access_token


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
