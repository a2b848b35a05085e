"""Follow and unfollow users, under `/api/users`."""

from typing import Any

from apiflask import APIBlueprint, abort

from app.api.schemas import PageQuery, UserCollection, collection
from app.auth import any_auth
from app.extensions import db
from app.http.errors import found
from app.http.replica import may_read_replica
from app.models import Follow, User
from app.models.follow import FollowsOneselfError

bp = APIBlueprint(
    "following", __name__, tag={"name": "Following", "description": "whose posts are in your feed"}
)


@bp.get("/users/<int:id>/followers")
@bp.auth_required(any_auth, roles=["read"])
@may_read_replica
@bp.input(PageQuery, location="query")
@bp.output(UserCollection)
def get_followers(id: int, query_data: dict[str, int]) -> Any:
    """List the followers of a user."""
    page = Follow.followers_of(found(User.find(id)), **query_data)
    return collection(page, ".get_followers", id=id)


@bp.get("/users/<int:id>/following")
@bp.auth_required(any_auth, roles=["read"])
@may_read_replica
@bp.input(PageQuery, location="query")
@bp.output(UserCollection)
def get_following(id: int, query_data: dict[str, int]) -> Any:
    """List the users that a user follows."""
    return _following(id, query_data)


@bp.get("/users/<int:id>/followed")
@bp.doc(deprecated=True)
@bp.auth_required(any_auth, roles=["read"])
@may_read_replica
@bp.input(PageQuery, location="query")
@bp.output(UserCollection)
def get_followed(id: int, query_data: dict[str, int]) -> Any:
    """List the users that a user follows, at the address of the tutorial of 2018."""
    return _following(id, query_data)


def _following(id: int, query_data: dict[str, int]) -> dict[str, Any]:
    page = Follow.followed_by(found(User.find(id)), **query_data)
    return collection(page, ".get_following", id=id)


@bp.put("/users/me/following/<int:id>")
@bp.auth_required(any_auth, roles=["write"])
@bp.output({}, status_code=204)
def follow(id: int) -> Any:
    """Follow a user; no error if you already do."""
    user = found(User.find(id))
    try:
        Follow.begin(any_auth.current_credential().user_id, user.id)
    except FollowsOneselfError:
        abort(400, "you cannot follow yourself; your own posts are in your feed anyway")
    db.session.commit()
    return ""


@bp.delete("/users/me/following/<int:id>")
@bp.auth_required(any_auth, roles=["write"])
@bp.output({}, status_code=204)
def unfollow(id: int) -> Any:
    """Unfollow a user; no error if you do not follow them."""
    Follow.end(any_auth.current_credential().user_id, found(User.find(id)).id)
    db.session.commit()
    return ""
