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
from apiflask import abort
from flask import g, request
from werkzeug.datastructures import Authorization

from app import tokens
from app.models import User

R = TypeVar("R")

REALM = "Microblog API"
# What a log in entitles to: everything.
ALL_SCOPES = "read write introspect"


class HTTPBasicAuth(apiflask.HTTPBasicAuth):
    """Only the scheme `Basic`, in any case, with credentials in UTF-8 (RFC 7617).

    Flask-HTTPAuth takes any scheme whose credentials decode, `Bearer` among them.
    """

    def get_auth(self) -> Authorization | None:
        auth = request.authorization
        return auth if auth is not None and auth.type == "basic" else None

    def is_compatible_auth(self, headers: Any) -> bool:  # noqa: ARG002
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
    user = _user_of_password(username, password)
    if user is not None:
        user.renew_password_hash(password)
    return user


@basic_token_auth.verify_password
def verify_token_or_password(username: str, password: str) -> User | None:
    if tokens.is_token(username):
        user: User | None = verify_token(username)
        return user
    return _user_of_password(username, password)


def _user_of_password(username: str, password: str) -> User | None:
    # Flask-HTTPAuth asks with empty strings when there are no credentials.
    if not username or not password:
        return None
    return User.check_credentials(username, password)


@token_auth.verify_token
def verify_token(token: str) -> User | None:
    user = User.find_by_token(token)
    if user is not None and not user.has_live_token:
        _challenge("Bearer", error="invalid_token", error_description="the token has expired")
    return user


@token_auth.error_handler
def token_required(_status: int) -> NoReturn:
    auth = request.authorization
    if auth is not None and auth.type == "bearer":
        _challenge("Bearer", error="invalid_token", error_description="the token is not valid")
    _challenge("Bearer")  # RFC 6750: without credentials, no more than that


@basic_auth.error_handler
@basic_token_auth.error_handler
def password_required(_status: int) -> NoReturn:
    _challenge("Basic", charset="UTF-8")


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


def presented_token() -> str | None:
    """The token this request came with, or `None` if it came with a password."""
    auth = request.authorization
    text = auth and (auth.token or auth.username)
    return text if text and tokens.is_token(text) else None


def refuse_tokens_in_query() -> None:
    """Answers 400: an address ends up in logs, histories and Referer headers (RFC 6750, 5.3)."""
    if request.query_string and not {"token", "access_token"}.isdisjoint(request.args):
        abort(400, "send the token in the Authorization header, never in the address")
