"""Who is asking: the credentials of a request, and the challenge when they do not do.

- `basic_auth` takes a user name or e-mail address and the password: to log in.
- `token_auth` takes `Authorization: Bearer <token>`.
- `any_auth` takes a token either way (a client that only speaks Basic sends it
  as the user name), or a password. Routes are protected with this one.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar

import apiflask
import flask
from apiflask import abort
from flask import g, request
from werkzeug.datastructures import Authorization
from werkzeug.utils import cached_property

from app import tokens
from app.models import User

R = TypeVar("R")

REALM = "Microblog API"
# What a log in entitles to: everything.
ALL_SCOPES = "read write introspect"


class Request(flask.Request):
    """A request whose `authorization` is parsed once."""

    @cached_property
    def authorization(self) -> Authorization | None:
        """The credentials, or `None` if there are none or they cannot be read."""
        try:
            return super().authorization
        except ValueError:  # Werkzeug's, on Basic credentials that are not ASCII
            return None


class HTTPBasicAuth(apiflask.HTTPBasicAuth):
    """Only the scheme `Basic`, in any case, with credentials in UTF-8 (RFC 7617).

    Flask-HTTPAuth takes any scheme whose credentials decode, `Bearer` among them.
    """

    def get_auth(self) -> Authorization | None:
        auth = request.authorization
        return auth if auth is not None and auth.type == "basic" else None

    def is_compatible_auth(self, headers: Any) -> bool:  # noqa: ARG002  as Flask-HTTPAuth calls it
        return self.get_auth() is not None

    def current_user(self) -> User:  # a method, as in Flask-HTTPAuth
        user: User = g.flask_httpauth_user
        return user


class HTTPTokenAuth(apiflask.HTTPTokenAuth):
    current_user = HTTPBasicAuth.current_user


class MultiAuth(apiflask.MultiAuth):
    current_user = HTTPBasicAuth.current_user


basic_auth = HTTPBasicAuth(name="Password", realm=REALM)
token_auth = HTTPTokenAuth(name="Token", realm=REALM)
basic_token_auth = HTTPBasicAuth(name="TokenOrPassword", realm=REALM)
any_auth = MultiAuth(token_auth, basic_token_auth)


@basic_auth.verify_password
def verify_password(username: str, password: str) -> User | None:
    return User.check_credentials(username, password)


@basic_token_auth.verify_password
def verify_token_or_password(username: str, password: str) -> User | None:
    if tokens.has_shape(username):
        user: User = verify_token(username)
        return user
    return User.check_credentials(username, password)


@token_auth.verify_token
def verify_token(token: str) -> User:
    user = User.find_by_token(token)
    if user is None:
        _challenge_token("the token is not valid")
    if not user.has_live_token:
        _challenge_token("the token has expired")
    return user


@token_auth.error_handler
def token_required(_status: int) -> NoReturn:
    auth = request.authorization
    if auth is not None and auth.type == "bearer":  # followed by nothing that can be a token
        _challenge_token("the token is not valid")
    _challenge("Bearer")  # RFC 6750: without credentials, no more than that


@basic_auth.error_handler
@basic_token_auth.error_handler
def password_required(_status: int) -> NoReturn:
    _challenge("Basic", charset="UTF-8")


def _challenge_token(description: str) -> NoReturn:
    _challenge("Bearer", error="invalid_token", error_description=description)


def _challenge(scheme: str, **parameters: str) -> NoReturn:
    quoted = ", ".join(
        f'{name}="{value}"' for name, value in {"realm": REALM, **parameters}.items()
    )
    abort(401, headers={"WWW-Authenticate": f"{scheme} {quoted}"})


def own_account(view: Callable[..., R]) -> Callable[..., R]:
    """Answers 403 unless the route's `id` is the requester's own; the view is called without it.

    Stands below `auth_required` and above `input`: whoever may not do it
    learns nothing about what the body should be.
    """

    @wraps(view)
    def decorated(id: int, **kwargs: Any) -> R:
        if id != any_auth.current_user().id:
            abort(403)
        return view(**kwargs)

    return decorated


def is_by_token() -> bool:
    """Whether this request came with a token, and not with a password."""
    auth = request.authorization
    return auth is not None and (auth.type == "bearer" or tokens.has_shape(auth.username or ""))


def presented_password() -> str:
    """The password this request came with, or an empty text."""
    auth = request.authorization
    return (auth and auth.password) or ""


def refuse_tokens_in_query() -> None:
    """Answers 400: an address ends up in logs, histories and Referer headers (RFC 6750, 5.3)."""
    if not {"token", "access_token"}.isdisjoint(request.args):
        abort(400, "send the token in the Authorization header, never in the address")


def init_app(app: apiflask.APIFlask) -> None:
    app.request_class = Request
    app.before_request(refuse_tokens_in_query)
