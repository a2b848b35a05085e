"""`/api/users`: register, read, change."""

from typing import Any, NoReturn

from apiflask import APIBlueprint, abort
from flask import url_for

from app.auth import any_auth, own_account
from app.extensions import db
from app.models import AlreadyTakenError, User
from app.schemas import ChangedUser, NewUser, PageQuery, UserCollection, UserOut, collection

bp = APIBlueprint("users", __name__)


@bp.post("/users")
@bp.input(NewUser, arg_name="fields")
@bp.output(UserOut, 201)
def create_user(fields: dict[str, Any]) -> Any:
    """Register."""
    try:
        user = User.register(**fields)
    except AlreadyTakenError as error:
        _refuse_taken(error)
    db.session.commit()
    return user, 201, {"Location": url_for(".get_user", id=user.id)}


@bp.get("/users")
@bp.auth_required(any_auth)
@bp.input(PageQuery, location="query")
@bp.output(UserCollection)
def get_users(query_data: dict[str, int]) -> Any:
    """All users, by ascending id."""
    return collection(User.page(**query_data), ".get_users")


@bp.get("/users/me")
@bp.auth_required(any_auth)
@bp.output(UserOut)
def get_me() -> Any:
    """Oneself."""
    return any_auth.current_user()


@bp.get("/users/<int:id>")
@bp.auth_required(any_auth)
@bp.output(UserOut)
def get_user(id: int) -> Any:
    """One user."""
    return db.get_or_404(User, id)


@bp.put("/users/<int:id>")
@bp.auth_required(any_auth)
@own_account
@bp.input(ChangedUser, arg_name="fields")
@bp.output(UserOut)
def update_user(fields: dict[str, Any]) -> Any:
    """Change one's own user; fields that are left out stay as they are."""
    user = any_auth.current_user()
    try:
        user.change(**fields)
    except AlreadyTakenError as error:
        _refuse_taken(error)
    db.session.commit()
    return user


def _refuse_taken(error: AlreadyTakenError) -> NoReturn:
    noun = {"username": "username", "email": "email address"}[error.field]
    abort(400, detail={"json": {error.field: [f"please use a different {noun}"]}})
