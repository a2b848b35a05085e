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
    refused_password,
)
from app.auth import (
    ACCOUNT,
    any_auth,
    check_again,
    fresh,
    is_closed_to,
    open_to_unverified,
    own_account,
    public,
    require_fresh_log_in,
)
from app.auth.challenges import refuse_access_token, refuse_unverified
from app.auth.password_check import try_password
from app.extensions import db
from app.http import audit, logs
from app.http.audit import Event
from app.http.errors import found
from app.http.headers import request
from app.http.replica import may_read_replica
from app.mail.messages import EMAIL_CHANGED, PASSWORD_CHANGED
from app.mail.outbox import charge_mail, put_notice, put_verification
from app.models import AlreadyTakenError, KnownSource, User, deactivate, new_address
from app.security import password_policy
from app.security.rate_limits import Limit, source_of

bp = APIBlueprint(
    "users", __name__, tag={"name": "Users", "description": "register, read, change, leave"}
)

_TAKEN = {
    "username": "please use a different username",
    "email": "please use a different email address",
}


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
    refusal = refused_password(fields)
    if refusal is not None:
        errors = {name: [_TAKEN[name]] for name in User.taken(fields["username"], fields["email"])}
        abort(400, detail={"json": errors | {"password": [refusal]}})
    try:
        user = User.register(**fields)
    except AlreadyTakenError as error:
        _refuse_taken(error)
    put_verification(user)
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
@open_to_unverified
@bp.input(ChangedUser, arg_name="fields")
@bp.output(UserOut)
def update_user(fields: dict[str, Any]) -> Any:
    """Change your own user; missing fields stay as they are.

    A value that stays as it is, is not checked: an imported user may keep a name or an
    address that no new user can have.
    """
    user, credential = any_auth.current_user(), any_auth.current_credential()
    if is_closed_to(credential) and set(fields) != {"email"}:  # which may be mistyped
        refuse_unverified()
    names = {"username", "email"} & set(fields)
    if names and ACCOUNT not in credential.scopes:
        refuse_access_token()
    is_taken_back = "email" in names and user.new_email not in {None, fields["email"]}
    if is_taken_back or any(fields[name] != getattr(user, name) for name in names):
        require_fresh_log_in()
    former = {name: getattr(user, name) for name in names}
    check_again()  # else a user who was just deactivated would be 404
    try:
        if "email" in fields:
            fields |= _address_change(user, fields.pop("email"))
        user.change(**fields)
    except AlreadyTakenError as error:
        _refuse_taken(error)
    if fields.keys() & {"email", "new_email"}:
        put_verification(user)
    db.session.commit()
    for name in sorted(former, reverse=True):
        if getattr(user, name) != former[name]:
            audit.record(Event(f"{name}_changed"), user.id)
    return user


def _address_change(user: User, address: str) -> dict[str, Any]:
    """Return the columns of a user who wants this address; tell the former one."""
    if address == user.email and user.new_email is None:
        return {}
    if address != user.email or not user.has_verified_email:  # it is mailed a link
        charge_mail(source_of(request.remote_addr))
    # Without a mail server, nobody could confirm an address.
    can_confirm = current_app.config["MAIL_SERVER"] is not None
    columns = new_address(user, address, can_confirm=can_confirm)
    if columns.get("email") or columns.get("new_email"):
        source = logs.address(request.remote_addr)
        is_pending = "email" not in columns
        put_notice(EMAIL_CHANGED, user, source, new_address=address, is_pending=is_pending)
    return columns


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
    if not try_password(user, [fields["current_password"]]):
        check_again()  # it may have been right until another request has changed it
        abort(403, "the current password is wrong")
    user.change_password(fields["new_password"])
    db.session.refresh(user, ["email", "verified_email"])  # the notice goes to the present one
    KnownSource.note(user.id, source_of(request.remote_addr))
    put_notice(PASSWORD_CHANGED, user, logs.address(request.remote_addr))
    db.session.commit()
    audit.record(Event.PASSWORD_CHANGED, user.id)
    return ""


@bp.delete("/users/<int:id>")
@bp.auth_required(any_auth)
@own_account
@fresh
@bp.output({}, status_code=204)
def deactivate_user() -> Any:
    """Leave: you disappear from every route; your user name stays taken."""
    user = any_auth.current_user()
    deactivate(user)
    db.session.commit()
    audit.record(Event.DEACTIVATED, user.id)
    return ""


def _refuse_taken(error: AlreadyTakenError) -> NoReturn:
    abort(400, detail={"json": {error.field: [_TAKEN[error.field]]}})
