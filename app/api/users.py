"""`/api/users`: register, read, change."""

from typing import Any, NoReturn

from apiflask import APIBlueprint, abort
from flask import url_for

from app import audit, passwords, throttle
from app.audit import Event
from app.auth import any_auth, check_password, own_account, presented_access_token, public
from app.challenges import refuse_access_token
from app.errors import found
from app.extensions import db
from app.headers import request
from app.models import AlreadyTakenError, KnownSource, OutdatedError, User, deactivate
from app.openapi import by_id
from app.schemas import (
    LOCATION,
    ChangedPassword,
    ChangedUser,
    NewUser,
    PageQuery,
    UserCollection,
    UserOut,
    collection,
)

bp = APIBlueprint(
    "users", __name__, tag={"name": "Users", "description": "register, read, change, leave"}
)


@bp.post("/users")
@public
@bp.input(NewUser, arg_name="fields")
@bp.output(UserOut, 201, headers=LOCATION, links=by_id("get_user", "update_user"))
def create_user(fields: dict[str, Any]) -> Any:
    """Register."""
    try:
        user = User.register(**fields)
    except AlreadyTakenError as error:
        _refuse_taken(error)
    db.session.commit()
    return user, 201, {"Location": url_for(".get_user", id=user.id)}


@bp.get("/users")
@bp.auth_required(any_auth, roles=["read"])
@bp.input(PageQuery, location="query")
@bp.output(UserCollection)
def get_users(query_data: dict[str, int]) -> Any:
    """List all users, by ascending id."""
    return collection(User.page(**query_data), ".get_users")


@bp.get("/users/me")
@bp.auth_required(any_auth, roles=["read"])
@bp.output(UserOut, links=by_id("get_user", "update_user", "get_followers", "get_posts_of_user"))
def get_me() -> Any:
    """Read oneself."""
    return any_auth.current_user()


@bp.get("/users/<int:id>")
@bp.auth_required(any_auth, roles=["read"])
@bp.output(UserOut)
def get_user(id: int) -> Any:
    """Read a user."""
    return found(User.find(id))


@bp.put("/users/<int:id>")
@bp.auth_required(any_auth, roles=["write"])
@own_account
@bp.input(ChangedUser, arg_name="fields")
@bp.output(UserOut)
def update_user(fields: dict[str, Any]) -> Any:
    """Change one's own user; fields that are left out stay as they are."""
    user = any_auth.current_user()
    if presented_access_token() is not None and not {"username", "email"}.isdisjoint(fields):
        refuse_access_token()  # one logs in with these
    try:
        user.change(**fields)
    except AlreadyTakenError as error:
        _refuse_taken(error)
    db.session.commit()
    return user


@bp.put("/users/<int:id>/password")
@bp.auth_required(any_auth)
@own_account
@bp.input(ChangedPassword, arg_name="fields")
@bp.output({}, status_code=204)
def change_password(fields: dict[str, str]) -> Any:
    """Change one's own password; every token of the user ends, this one included."""
    user = any_auth.current_user()
    refusal = passwords.refusal(fields["new_password"], user.username, user.email)
    if refusal is not None:
        abort(400, detail={"json": {"new_password": [refusal]}})
    if not check_password(user, fields["current_password"]):
        abort(403, "the current password is wrong")
    try:
        user.change_password(fields["new_password"])
    except OutdatedError:  # another request has changed it
        abort(403, "the current password is wrong")
    KnownSource.note(user.id, throttle.source_of(request.remote_addr))
    db.session.commit()
    audit.record(Event.PASSWORD_CHANGED, user.id)
    return ""


@bp.delete("/users/<int:id>")
@bp.auth_required(any_auth)
@own_account
@bp.output({}, status_code=204)
def deactivate_user() -> Any:
    """Leave: the user and their posts are gone from every route; their name stays taken."""
    user = any_auth.current_user()
    deactivate(user)
    db.session.commit()
    audit.record(Event.DEACTIVATED, user.id)
    return ""


def _refuse_taken(error: AlreadyTakenError) -> NoReturn:
    noun = {"username": "username", "email": "email address"}[error.field]
    abort(400, detail={"json": {error.field: [f"please use a different {noun}"]}})
