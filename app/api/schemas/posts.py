"""A post, and a stream of posts, in requests and responses."""

from typing import Any

from apiflask import Schema
from apiflask.fields import DateTime, Integer, List, Nested, String
from flask import url_for
from marshmallow.validate import Length

from app.api.schemas.base import Answer, Body
from app.api.schemas.fields import A_TIME, Count, Links, PageNumber, Text, about, link
from app.api.schemas.users import UserLinks, UserName, links_of
from app.http.headers import path_to
from app.models import Post


class NewPost(Body):
    body = Text(
        required=True,
        validate=Length(1, 140, error="must be 1 to 140 characters long"),
        metadata=about("Hello"),
    )


class PostLinks(Answer):
    self = String(metadata=link("/api/posts/1"))
    author = String(metadata=link("/api/users/1"))


def _links(post: Post) -> dict[str, str]:
    return {
        "self": path_to("posts.get_post", id=post.id),
        "author": path_to("users.get_user", id=post.user_id),
    }


class Author(UserName):
    links = Links(UserLinks, links_of)


class PostOut(Answer):
    id = Integer(metadata=about(1))
    body = String(metadata=about("Hello"))
    timestamp = DateTime(metadata=about(A_TIME))
    author = Nested(Author)
    links = Links(PostLinks, _links)


class StreamQuery(Schema):
    # The largest number that JSON clients read exactly.
    before = Count(2**53, metadata=about(42, "only posts with a lower id"))
    per_page = PageNumber(10, 100, "items at once")


class StreamMeta(Answer):
    per_page = Integer(metadata=about(10))


class StreamLinks(Answer):
    self = String(metadata=link("/api/posts?per_page=10"))
    next = String(allow_none=True, metadata=link("/api/posts?per_page=10&before=32"))


class PostStream(Answer):
    items = List(Nested(PostOut))
    meta = Nested(StreamMeta, data_key="_meta")
    links = Nested(StreamLinks, data_key="_links")


def stream(
    posts: list[Post], query: dict[str, Any], endpoint: str, **values: Any
) -> dict[str, Any]:
    """Return posts in the form that `PostStream` dumps.

    Args:
        posts: newest first; one more than `per_page` where there are more.
        query: as `StreamQuery` has loaded it.
        endpoint: of the route.
        values: for the variables of the route.
    """
    per_page = query["per_page"]
    items = posts[:per_page]
    more = len(posts) > per_page
    return {
        "items": items,
        "meta": {"per_page": per_page},
        "links": {
            "self": url_for(endpoint, **query, **values),
            "next": url_for(endpoint, **query | {"before": items[-1].id}, **values)
            if more
            else None,
        },
    }
