"""`/api/posts` and `/api/feed`: write, read, change, delete; lists of the newest first."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from apiflask import APIBlueprint, abort
from flask import url_for

from app.api.openapi import by_id
from app.api.schemas import LOCATION
from app.api.schemas.posts import NewPost, PostOut, PostStream, StreamQuery, stream
from app.auth import any_auth
from app.extensions import db
from app.http.errors import found
from app.http.replica import may_read_replica
from app.models import Post, User

bp = APIBlueprint(
    "posts", __name__, tag={"name": "Posts", "description": "write, read, change, delete"}
)


def own_post(view: Callable[..., Any]) -> Callable[..., Any]:
    """Call the view with the `post` of the route's `id`: 404 without one, 403 if another wrote it.

    Put it below `auth_required` and above `input`, like `own_account`.
    """

    @wraps(view)
    def decorated(id: int, **kwargs: Any) -> Any:
        post = found(Post.find(id))
        if post.user_id != any_auth.current_credential().user_id:
            abort(403)
        return view(post=post, **kwargs)

    return decorated


@bp.get("/posts")
@bp.auth_required(any_auth, roles=["read"])
@may_read_replica
@bp.input(StreamQuery, location="query")
@bp.output(PostStream)
def get_posts(query_data: dict[str, int]) -> Any:
    """List all posts, newest first."""
    posts = Post.of_everybody(query_data.get("before"), query_data["per_page"] + 1)
    return stream(posts, query_data, ".get_posts")


@bp.get("/users/<int:id>/posts")
@bp.auth_required(any_auth, roles=["read"])
@may_read_replica
@bp.input(StreamQuery, location="query")
@bp.output(PostStream)
def get_posts_of_user(id: int, query_data: dict[str, int]) -> Any:
    """List a user's posts, newest first."""
    user = found(User.find(id))
    posts = Post.of_user(user.id, query_data.get("before"), query_data["per_page"] + 1)
    return stream(posts, query_data, ".get_posts_of_user", id=id)


@bp.get("/feed")
@bp.auth_required(any_auth, roles=["read"])
@may_read_replica
@bp.input(StreamQuery, location="query")
@bp.output(PostStream)
def get_feed(query_data: dict[str, int]) -> Any:
    """List your posts and those of the users you follow, newest first."""
    me = any_auth.current_credential().user_id
    posts = Post.feed_of(me, query_data.get("before"), query_data["per_page"] + 1)
    return stream(posts, query_data, ".get_feed")


@bp.post("/posts")
@bp.auth_required(any_auth, roles=["write"])
@bp.input(NewPost, arg_name="fields")
@bp.output(PostOut, 201, headers=LOCATION, links=by_id("get_post", "update_post", "delete_post"))
def create_post(fields: dict[str, str]) -> Any:
    """Write a post."""
    post = Post.publish(any_auth.current_user(), fields["body"])
    db.session.commit()
    return post, 201, {"Location": url_for(".get_post", id=post.id)}


@bp.get("/posts/<int:id>")
@bp.auth_required(any_auth, roles=["read"])
@bp.output(PostOut)
def get_post(id: int) -> Any:
    """Read a post."""
    return found(Post.find(id))


@bp.put("/posts/<int:id>")
@bp.auth_required(any_auth, roles=["write"])
@own_post
@bp.input(NewPost, arg_name="fields")
@bp.output(PostOut)
def update_post(post: Post, fields: dict[str, str]) -> Any:
    """Change your post."""
    post.body = fields["body"]
    db.session.commit()
    return post


@bp.delete("/posts/<int:id>")
@bp.auth_required(any_auth, roles=["write"])
@own_post
@bp.output({}, status_code=204)
def delete_post(post: Post) -> Any:
    """Delete your post."""
    post.withdraw()
    db.session.commit()
    return ""
