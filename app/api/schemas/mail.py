"""Requests about links that are mailed."""

from typing import Any

from marshmallow import pre_load
from marshmallow.validate import Length

from app.api.schemas.base import Body
from app.api.schemas.fields import NewPassword, Text, TokenText, about

_A_LINK_TOKEN = "WzEsIjBhMWIyYzNkIl0.aSBbUA.3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


class ForgottenPassword(Body):
    login = Text(
        required=True,
        validate=Length(1, 254, error="must be 1 to {max} characters long"),
        metadata=about("alice", "user name or e-mail address"),
    )

    @pre_load
    def take_email(self, data: Any, **_: Any) -> Any:
        """Take `email` in place of `login`, as clients of microblog-api send it."""
        if isinstance(data, dict) and "login" not in data and "email" in data:
            return data | {"login": data["email"]}
        return data


class LinkToken(Body):
    token = TokenText(required=True, metadata=about(_A_LINK_TOKEN, "of the link in a mail"))


class ResetPassword(LinkToken):
    new_password = NewPassword(required=True, metadata=about("battery staple"))
