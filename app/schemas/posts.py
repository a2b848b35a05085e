"""A post, as requests and responses have it."""

from apiflask.fields import DateTime, Function, Integer, List, Nested, String
from flask import url_for
from marshmallow.validate import Length

from app.fields import A_TIME, Text, about, link
from app.schemas.base import Answer, Body, Resource, StreamLinks, StreamMeta
from app.schemas.users import Author


class NewPost(Body):
    body = Text(
        required=True,
        validate=Length(1, 140, error="must be 1 to 140 characters long"),
        metadata=about("Hello"),
    )


class PostLinks(Answer):
    self = Function(
        lambda post: url_for("posts.get_post", id=post.id), metadata=link("/api/posts/1")
    )
    author = Function(
        lambda post: url_for("users.get_user", id=post.user_id), metadata=link("/api/users/1")
    )


class PostOut(Resource):
    id = Integer(metadata=about(1))
    body = String(metadata=about("Hello"))
    timestamp = DateTime(metadata=about(A_TIME))
    author = Nested(Author)
    links = Nested(PostLinks, data_key="_links")


class PostStream(Answer):
    items = List(Nested(PostOut))
    meta = Nested(StreamMeta, data_key="_meta")
    links = Nested(StreamLinks, data_key="_links")
