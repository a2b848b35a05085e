"""A user, in requests and responses."""

from typing import Any

from apiflask.fields import DateTime, Function, Integer, List, Nested, String
from flask import current_app
from marshmallow import ValidationError, missing, pre_load, validates_schema
from marshmallow.validate import Length, Regexp

from app.api.schemas.base import Answer, Body, PageLinks, PageMeta
from app.api.schemas.fields import A_TIME, Email, Links, NewPassword, Text, about, link
from app.auth.credential import credential_of_request
from app.http.headers import path_to
from app.models import User
from app.models.user import avatar_url
from app.security import password_policy

_AN_AVATAR = (
    "https://www.gravatar.com/avatar/"
    "ff8d9819fc0e12bf0d24892e45987e249a28dce836a85cad60e28eaaa8c6d976?d=identicon&s=128"
)


class UsernameText(Text):
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
    username = UsernameText()
    email = Email()
    about_me = Text(
        allow_none=True,
        validate=Length(max=140, error="must be at most {max} characters long"),
        metadata=about("Down the rabbit hole"),
    )


class NewUser(ChangedUser):
    username = UsernameText(required=True)
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
        if "password" in data:  # else it was not a string, which is reported already
            names = (data[name] for name in ("username", "email") if name in data)
            refusal = password_policy.refusal(data["password"], *names)
            if refusal is not None:
                raise ValidationError(refusal, "password")


class ChangedPassword(Body):
    current_password = Text(required=True, metadata=about("correct horse"))
    new_password = NewPassword(required=True, metadata=about("battery staple"))


class UserLinks(Answer):
    self = String(metadata=link("/api/users/1"))
    followers = String(metadata=link("/api/users/1/followers"))  # microblog
    following = String(metadata=link("/api/users/1/following"))  # microblog
    avatar = String(metadata=link(_AN_AVATAR) | {"optional": True})


def links_of(user: User) -> dict[str, str]:
    links = {
        "self": path_to("users.get_user", id=user.id),
        "followers": path_to("following.get_followers", id=user.id),  # microblog
        "following": path_to("following.get_following", id=user.id),  # microblog
    }
    if current_app.config["AVATARS"] != "off":
        links["avatar"] = avatar_url(user.email, 128)
    return links


def is_own(user: User) -> bool:
    credential = credential_of_request()
    return credential is not None and credential.user_id == user.id


class UserName(Answer):
    id = Integer(metadata=about(1))
    username = String(metadata=about("alice"))


class UserOut(UserName):
    email = Function(
        lambda user: user.email if is_own(user) else missing,
        metadata=about("alice@example.com", "only of your own user", type="string", optional=True),
    )
    about_me = String(allow_none=True, metadata=about("Down the rabbit hole"))
    last_seen = DateTime(
        allow_none=True, metadata=about(A_TIME, "when the user registered, or last logged in")
    )
    post_count = Integer(metadata=about(0))  # microblog
    follower_count = Integer(metadata=about(0))  # microblog
    following_count = Integer(metadata=about(0))  # microblog
    links = Links(UserLinks, links_of)


class UserCollection(Answer):
    items = List(Nested(UserOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")
