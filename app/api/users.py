"""`/api/users`: register, read, change, leave."""

from typing import Any, NoReturn

from apiflask import APIBlueprint, abort
from flask import current_app, url_for

from app.api.openapi import by_id
from app.api.schemas import (
    LOCATION,
    ChangedPassword,
    ChangedUser,
    NewUser,
    PageQuery,
    UserCollection,
    UserOut,
    collection,
)
from app.auth import ACCOUNT, any_auth, check_again, own_account, public
from app.auth.challenges import refuse_access_token
from app.auth.password_check import try_password
from app.extensions import db
from app.http import audit
from app.http.audit import Event
from app.http.errors import found
from app.http.headers import request
from app.http.replica import may_read_replica
from app.models import AlreadyTakenError, KnownSource, User, deactivate
from app.security import password_policy
from app.security.rate_limits import Limit, source_of

bp = APIBlueprint(
    "users", __name__, tag={"name": "Users", "description": "register, read, change, leave"}
)


@bp.post("/users")
@public
@bp.doc(responses=[429])
@bp.input(NewUser, arg_name="fields")
@bp.output(UserOut, 201, headers=LOCATION, links=by_id("get_user", "update_user"))
def create_user(fields: dict[str, Any]) -> Any:
    """Register."""
    per_source = current_app.config["REGISTRATION_LIMIT_PER_SOURCE"]
    source = source_of(request.remote_addr)
    Limit("registration per source", per_source, source, counts="registrations").charge()
    try:
        user = User.register(**fields)
    except AlreadyTakenError as error:
        _refuse_taken(error)
    db.session.commit()
    return user, 201, {"Location": url_for(".get_user", id=user.id)}


@bp.get("/users")
@bp.auth_required(any_auth, roles=["read"])
@may_read_replica
@bp.input(PageQuery, location="query")
@bp.output(UserCollection)
def get_users(query_data: dict[str, int]) -> Any:
    """List all users, by ascending id."""
    return collection(User.page(**query_data), ".get_users")


@bp.get("/users/me")
@bp.auth_required(any_auth, roles=["read"])
@bp.output(
    UserOut,
    links=by_id(
        "get_user",
        "update_user",
        "get_followers",  # microblog
        "get_posts_of_user",  # microblog
    ),
)
def get_me() -> Any:
    """Read your own user."""
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
    """Change your own user; missing fields stay as they are."""
    user = any_auth.current_user()
    may_change_login = ACCOUNT in any_auth.current_credential().scopes
    if not may_change_login and not {"username", "email"}.isdisjoint(fields):
        refuse_access_token()
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
    """Change your password. All your tokens end, this one included."""
    user = any_auth.current_user()
    refusal = password_policy.refusal(fields["new_password"], user.username, user.email)
    if refusal is not None:
        abort(400, detail={"json": {"new_password": [refusal]}})
    if not try_password(user, fields["current_password"]):
        check_again()  # it may have been right until another request has changed it
        abort(403, "the current password is wrong")
    user.change_password(fields["new_password"])
    KnownSource.note(user.id, source_of(request.remote_addr))
    db.session.commit()
    audit.record(Event.PASSWORD_CHANGED, user.id)
    return ""


@bp.delete("/users/<int:id>")
@bp.auth_required(any_auth)
@own_account
@bp.output({}, status_code=204)
def deactivate_user() -> Any:
    """Leave: you disappear from every route; your user name stays taken."""
    user = any_auth.current_user()
    deactivate(user)
    db.session.commit()
    audit.record(Event.DEACTIVATED, user.id)
    return ""


def _refuse_taken(error: AlreadyTakenError) -> NoReturn:
    noun = {"username": "username", "email": "email address"}[error.field]
    abort(400, detail={"json": {error.field: [f"please use a different {noun}"]}})
