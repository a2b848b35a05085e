"""A user, as requests and responses have them."""

from typing import Any

from apiflask import Schema
from apiflask.fields import DateTime, Function, Integer, List, Nested, String
from flask import g, url_for
from marshmallow import ValidationError, missing, pre_load, validates_schema
from marshmallow.validate import Length, Regexp

from app import passwords
from app.fields import Email, Text
from app.schemas.base import Body, PageLinks, PageMeta, Resource


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


class UserCollection(Schema):
    items = List(Nested(UserOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")
