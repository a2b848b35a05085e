"""A user, in requests and responses."""

from typing import Any

from apiflask.fields import DateTime, Function, Integer, List, Nested, String
from flask import current_app
from marshmallow import ValidationError, missing, post_load, pre_load, validates_schema
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
        # Not with a `-` first: a shell hands such a name to a command as an option.
        pattern = "^[A-Za-z0-9._][A-Za-z0-9._-]{0,63}"
        text = "must be 1 to 64 of the characters A-Z a-z 0-9 . _ -, and not begin with -"
        # The end of a text is `\Z` here, as `$` lets a line break pass; in JSON Schema it is `$`.
        super().__init__(
            validate=Regexp(pattern + r"\Z", error=text),
            metadata=about("alice", pattern=pattern + "$"),
            **kwargs,
        )


class AboutMeText(Text):
    def __init__(self) -> None:
        super().__init__(
            allow_none=True,
            validate=Length(max=140, error="must be at most {max} characters long"),
            metadata=about("Down the rabbit hole"),
        )


class ChangedUser(Body):
    """A change of the user who asks for it; a field that stays as it is, is not checked."""

    username = UsernameText()
    email = Email()
    about_me = AboutMeText()

    @pre_load
    def leave_out_what_stays(self, data: Any, **_: Any) -> Any:
        # An imported user may have a name or an address that no new one can have.
        if not isinstance(data, dict):
            return data
        stays = self._stays(data)
        return {name: value for name, value in data.items() if name not in stays}

    @post_load(pass_original=True)
    def put_back_what_stays(
        self, fields: dict[str, Any], original: dict[str, Any], **_: Any
    ) -> dict[str, Any]:
        return fields | self._stays(original)

    def _stays(self, data: dict[str, Any]) -> dict[str, Any]:
        credential = credential_of_request()
        if credential is None:
            return {}
        user = credential.user
        return {
            name: data[name]
            for name in self.fields
            if name in data and data[name] == getattr(user, name)
        }


class NewUser(Body):
    username = UsernameText(required=True)
    email = Email(required=True)
    password = NewPassword(required=True, metadata=about("correct horse"))
    about_me = AboutMeText()

    @pre_load
    def require_fields(self, data: Any, **_: Any) -> Any:
        text = "must include username, email and password fields"
        if isinstance(data, dict):
            absent = [name for name in ("username", "email", "password") if name not in data]
            if absent:
                raise ValidationError({name: [text] for name in absent})
        return data

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def refuse_weak_password(self, data: dict[str, Any], original: Any, **_: Any) -> None:
        """Refuse it together with other fields.

        Where it alone is weak, `refused_password` is for the caller, who can see whether the
        name is taken as well.
        """
        given = original if isinstance(original, dict) else {}
        if any(name in given and name not in data for name in self.fields):
            refusal = refused_password(data)
            if refusal is not None:
                raise ValidationError(refusal, "password")


def refused_password(data: dict[str, Any]) -> str | None:
    """Return why the password of a new user is refused, or `None`."""
    if "password" not in data:  # it was not a string, which is reported already
        return None
    names = (data[name] for name in ("username", "email") if name in data)
    return password_policy.refusal(data["password"], *names)


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
    # As `User.has_verified_email`, whose call would cost each request.
    email_verified = Function(
        lambda user: user.verified_email == user.email if is_own(user) else missing,
        metadata=about(False, "only of your own user", type="boolean", optional=True),
    )
    new_email = Function(
        lambda user: user.new_email if is_own(user) and user.new_email else missing,
        metadata=about(
            "alice@example.org", "replaces `email` once confirmed", type="string", optional=True
        ),
    )
    about_me = String(allow_none=True, metadata=about("Down the rabbit hole"))
    last_seen = DateTime(
        allow_none=True, metadata=about(A_TIME, "when the user registered, or last logged in")
    )
    roles = Function(
        lambda user: user.roles if is_own(user) else missing,
        metadata=about(
            ["admin"],
            "only of your own user",
            type="array",
            items={"type": "string"},
            optional=True,
        ),
    )
    post_count = Integer(metadata=about(0))  # microblog
    follower_count = Integer(metadata=about(0))  # microblog
    following_count = Integer(attribute="followed_count", metadata=about(0))  # microblog
    links = Links(UserLinks, links_of)


class UserCollection(Answer):
    items = List(Nested(UserOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")
