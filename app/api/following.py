"""Followers and those one follows, under `/api/users`."""

from typing import Any

from apiflask import APIBlueprint, abort

from app.auth import any_auth
from app.errors import found
from app.extensions import db
from app.models import Follow, FollowsOneselfError, User
from app.schemas import PageQuery, UserCollection, collection

bp = APIBlueprint(
    "following", __name__, tag={"name": "Following", "description": "whose posts one's feed has"}
)


@bp.get("/users/<int:id>/followers")
@bp.auth_required(any_auth, roles=["read"])
@bp.input(PageQuery, location="query")
@bp.output(UserCollection)
def get_followers(id: int, query_data: dict[str, int]) -> Any:
    """List those who follow a user."""
    page = Follow.followers_of(found(User.find(id)), **query_data)
    return collection(page, ".get_followers", id=id)


@bp.get("/users/<int:id>/following")
@bp.auth_required(any_auth, roles=["read"])
@bp.input(PageQuery, location="query")
@bp.output(UserCollection)
def get_following(id: int, query_data: dict[str, int]) -> Any:
    """List those whom a user follows."""
    return _following(id, query_data)


@bp.get("/users/<int:id>/followed")
@bp.doc(deprecated=True)
@bp.auth_required(any_auth, roles=["read"])
@bp.input(PageQuery, location="query")
@bp.output(UserCollection)
def get_followed(id: int, query_data: dict[str, int]) -> Any:
    """List those whom a user follows, at the address of the tutorial of 2018."""
    return _following(id, query_data)


def _following(id: int, query_data: dict[str, int]) -> dict[str, Any]:
    page = Follow.followed_by(found(User.find(id)), **query_data)
    return collection(page, ".get_following", id=id)


@bp.put("/users/me/following/<int:id>")
@bp.auth_required(any_auth, roles=["write"])
@bp.output({}, status_code=204)
def follow(id: int) -> Any:
    """Follow a user; again is no mistake."""
    user = found(User.find(id))
    try:
        Follow.begin(any_auth.current_user().id, user.id)
    except FollowsOneselfError:
        abort(400, "you cannot follow yourself; your own posts are in your feed anyway")
    db.session.commit()
    return ""


@bp.delete("/users/me/following/<int:id>")
@bp.auth_required(any_auth, roles=["write"])
@bp.output({}, status_code=204)
def unfollow(id: int) -> Any:
    """Follow a user no longer; again is no mistake."""
    Follow.end(any_auth.current_user().id, found(User.find(id)).id)
    db.session.commit()
    return ""
