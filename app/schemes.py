"""The authentication schemes of Flask-HTTPAuth, and what is different here."""

from typing import Any

import apiflask
from flask import g
from werkzeug.datastructures import Authorization

from app.headers import request
from app.models import User

# What opens the account itself, which an access token never does.
ACCOUNT = "account"


class HTTPBasicAuth(apiflask.HTTPBasicAuth):
    """Only the scheme `Basic`, in any case, with credentials in UTF-8 (RFC 7617).

    Flask-HTTPAuth takes any scheme whose credentials decode, `Bearer` among them.
    """

    def __init__(self, realm: str) -> None:
        super().__init__(
            name="Password",
            realm=realm,
            description="User name or e-mail address, and password. Everywhere but at the log in, "
            "a token as user name does as well.",
        )

    def get_auth(self) -> Authorization | None:
        auth = request.authorization
        return auth if auth is not None and auth.type == "basic" else None

    def is_compatible_auth(self, headers: Any) -> bool:  # noqa: ARG002  as Flask-HTTPAuth calls it
        return self.get_auth() is not None

    def current_user(self) -> User:  # a method, as in Flask-HTTPAuth
        user: User = g.flask_httpauth_user
        return user

    def authorize(self, role: Any, user: User, auth: Any) -> Any:
        """Whether the credentials have one of the scopes; a route that names none is `ACCOUNT`."""
        return super().authorize(role or ACCOUNT, user, auth)


class HTTPTokenAuth(apiflask.HTTPTokenAuth):
    def __init__(self, realm: str) -> None:
        super().__init__(
            name="Token",
            realm=realm,
            description="The token of a log in, or an access token, which has the scopes that "
            "were asked for. `account` is what only the token of a log in has.",
        )

    current_user = HTTPBasicAuth.current_user

    def authorize(self, role: Any, user: User, auth: Any) -> Any:
        return super().authorize(role or ACCOUNT, user, auth)


class MultiAuth(apiflask.MultiAuth):
    current_user = HTTPBasicAuth.current_user
