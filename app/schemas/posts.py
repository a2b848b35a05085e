"""A post, as requests and responses have it."""

from apiflask import Schema
from apiflask.fields import DateTime, Function, Integer, List, Nested, String
from flask import url_for
from marshmallow.validate import Length

from app.fields import Text
from app.schemas.base import Body, Resource, StreamLinks, StreamMeta
from app.schemas.users import UserOut


class NewPost(Body):
    body = Text(required=True, validate=Length(1, 140, error="must be 1 to 140 characters long"))


class PostLinks(Schema):
    self = Function(lambda post: url_for("posts.get_post", id=post.id))
    author = Function(lambda post: url_for("users.get_user", id=post.user_id))


class PostOut(Resource):
    id = Integer()
    body = String()
    timestamp = DateTime()
    author = Nested(UserOut, only=("id", "username", "links"))
    links = Nested(PostLinks, data_key="_links")


class PostStream(Schema):
    items = List(Nested(PostOut))
    meta = Nested(StreamMeta, data_key="_meta")
    links = Nested(StreamLinks, data_key="_links")
