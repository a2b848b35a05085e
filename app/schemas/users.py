"""A user, as requests and responses have them."""

from typing import Any

from apiflask.fields import DateTime, Function, Integer, List, Nested, String
from flask import g, url_for
from marshmallow import ValidationError, missing, pre_load, validates_schema
from marshmallow.validate import Length, Regexp

from app import passwords
from app.fields import A_TIME, Email, NewPassword, Text, about, link
from app.schemas.base import Answer, Body, PageLinks, PageMeta, Resource


class Username(Text):
    def __init__(self, **kwargs: Any) -> None:
        pattern = "^[A-Za-z0-9._-]{1,64}"
        text = "must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"
        # The end of a text is `\Z` here, as `$` lets a line break pass; in JSON Schema it is `$`.
        super().__init__(
            validate=Regexp(pattern + r"\Z", error=text),
            metadata=about("alice", pattern=pattern + "$"),
            **kwargs,
        )


class ChangedUser(Body):
    username = Username()
    email = Email()
    about_me = Text(
        allow_none=True,
        validate=Length(max=140, error="must be at most {max} characters long"),
        metadata=about("Down the rabbit hole"),
    )


class NewUser(ChangedUser):
    username = Username(required=True)
    email = Email(required=True)
    password = NewPassword(required=True, metadata=about("correct horse"))

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
    current_password = Text(required=True, metadata=about("correct horse"))
    new_password = NewPassword(required=True, metadata=about("battery staple"))


class UserLinks(Answer):
    self = Function(
        lambda user: url_for("users.get_user", id=user.id), metadata=link("/api/users/1")
    )
    followers = Function(
        lambda user: url_for("following.get_followers", id=user.id),
        metadata=link("/api/users/1/followers"),
    )
    following = Function(
        lambda user: url_for("following.get_following", id=user.id),
        metadata=link("/api/users/1/following"),
    )
    avatar = Function(
        lambda user: user.avatar(128),
        metadata=link(
            "https://www.gravatar.com/avatar/ff8d9819fc0e12bf0d24892e45987e249a28dce836a85cad60e28eaaa8c6d976?d=identicon&s=128"
        ),
    )


class UserName(Answer):
    id = Integer(metadata=about(1))
    username = String(metadata=about("alice"))


class Author(UserName, Resource):
    links = Nested(UserLinks, data_key="_links")


class UserOut(UserName, Resource):
    email = Function(
        lambda user: user.email if user == g.get("flask_httpauth_user") else missing,
        metadata=about("alice@example.com", "only in one's own user", type="string", optional=True),
    )
    about_me = String(allow_none=True, metadata=about("Down the rabbit hole"))
    last_seen = DateTime(
        allow_none=True, metadata=about(A_TIME, "when the user registered, or last logged in")
    )
    post_count = Integer(metadata=about(0))
    follower_count = Integer(metadata=about(0))
    following_count = Integer(metadata=about(0))
    links = Nested(UserLinks, data_key="_links")


class UserCollection(Answer):
    items = List(Nested(UserOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")
