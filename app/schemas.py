"""JSON in, JSON out.

What a request may say and what a response looks like is written here and
nowhere else: these schemas validate the one, write the other, and describe both.
"""

from typing import Any

from apiflask import Schema
from apiflask.fields import DateTime, Function, Integer, List, Nested, String
from flask import g, url_for
from marshmallow import EXCLUDE, ValidationError, missing, pre_load, validates_schema
from marshmallow.validate import Length, Regexp

from app import passwords
from app.fields import Count, Email, Text
from app.models import Page, Post


class Body(Schema):
    """A JSON object; what it holds beyond the fields is ignored."""

    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": "the body must be a JSON object"}  # noqa: RUF012  a marshmallow declaration


# -- Users -----------------------------------------------------------------------------


class ChangedUser(Body):
    username = Text(
        validate=Regexp(
            # Not `$` alone, which lets a line break at the end pass.
            r"^[A-Za-z0-9._-]{1,64}(?!\n)$",
            error="must be 1 to 64 of the characters A-Z a-z 0-9 . _ -",
        )
    )
    email = Email()
    about_me = Text(
        allow_none=True, validate=Length(max=140, error="must be at most {max} characters long")
    )


class NewUser(ChangedUser):
    password = Text(required=True)

    @pre_load
    def require_fields(self, data: Any, **_: Any) -> Any:
        text = "must include username, email and password fields"
        if isinstance(data, dict):
            absent = [name for name in ("username", "email", "password") if name not in data]
            if absent:
                raise ValidationError({name: [text] for name in absent})
        return data

    @validates_schema(skip_on_field_errors=False)
    def refuse_weak_password(self, data: dict[str, Any], **_: Any) -> None:
        if "password" in data:  # else it is no text, which has been said
            names = (data[name] for name in ("username", "email") if name in data)
            refusal = passwords.refusal(data["password"], *names)
            if refusal is not None:
                raise ValidationError(refusal, "password")


class ChangedPassword(Body):
    current_password = Text(required=True)
    new_password = Text(required=True)


class UserLinks(Schema):
    self = Function(lambda user: url_for("users.get_user", id=user.id))
    followers = Function(lambda user: url_for("following.get_followers", id=user.id))
    following = Function(lambda user: url_for("following.get_following", id=user.id))
    avatar = Function(lambda user: user.avatar(128))


class Resource(Schema):
    """Whose `links` are made from the whole object."""

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        return obj if attr == "links" else super().get_attribute(obj, attr, default)


class UserOut(Resource):
    id = Integer()
    username = String()
    # Only in one's own user.
    email = Function(lambda user: user.email if user == g.get("flask_httpauth_user") else missing)
    about_me = String()
    last_seen = DateTime()
    post_count = Integer()
    follower_count = Integer()
    following_count = Integer()
    links = Nested(UserLinks, data_key="_links")


# -- Collections -----------------------------------------------------------------------


class PageQuery(Schema):
    page = Count(2**31 - 1, load_default=1)
    per_page = Count(100, load_default=10)


class PageMeta(Schema):
    page = Integer()
    per_page = Integer()
    total_pages = Integer()
    total_items = Integer()


class PageLinks(Schema):
    self = String()
    next = String()
    prev = String()


class UserCollection(Schema):
    items = List(Nested(UserOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")


def collection(page: Page, endpoint: str, **values: Any) -> dict[str, Any]:
    """A page in the form that a collection schema writes.

    Args:
        page: of the collection.
        endpoint: of the route that answers with it.
        values: of the route's variables.
    """

    def link(number: int | None) -> str | None:
        if number is None:
            return None
        return url_for(endpoint, page=number, per_page=page.per_page, **values)

    return {
        "items": page.items,
        "meta": {
            "page": page.number,
            "per_page": page.per_page,
            "total_pages": page.pages,
            "total_items": page.total,
        },
        "links": {
            "self": link(page.number),
            "next": link(page.next_number),
            "prev": link(page.prev_number),
        },
    }


# -- Posts -----------------------------------------------------------------------------


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


class StreamQuery(Schema):
    before = Count(2**53)  # what JSON numbers are exact to
    per_page = Count(100, load_default=10)


class StreamMeta(Schema):
    per_page = Integer()


class StreamLinks(Schema):
    self = String()
    next = String()


class PostStream(Schema):
    items = List(Nested(PostOut))
    meta = Nested(StreamMeta, data_key="_meta")
    links = Nested(StreamLinks, data_key="_links")


def stream(
    posts: list[Post], query: dict[str, Any], endpoint: str, **values: Any
) -> dict[str, Any]:
    """The posts from a position on, in the form that `PostStream` writes.

    Args:
        posts: newest first, and one more than fits where there are more.
        query: as `StreamQuery` has read it.
        endpoint: of the route that answers with it.
        values: of the route's variables.
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


# -- Tokens ----------------------------------------------------------------------------


class TokenOut(Schema):
    """What a log in answers: `token` is the tutorial's name, the rest is RFC 6749's."""

    token = String()
    access_token = String()
    token_type = String()
    expires_in = Integer()


class TokenInfo(Schema):
    """What the presented credentials are worth; a password has no `expires_in`."""

    token_type = String()
    scope = String()
    expires_in = Integer()
    user = Nested(UserOut, only=("id", "username"))
