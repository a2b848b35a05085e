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
from flask import g
from werkzeug.datastructures import Authorization

from app import audit, passwords, throttle, tokens
from app.audit import Event
from app.extensions import db
from app.headers import request
from app.logins import normal_login
from app.models import KnownSource, User

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
def verify_password(login: str, password: str) -> User | None:
    """The user with this user name or e-mail address, if the password is theirs.

    Empty ones are no credentials: HTTP libraries give them where there were none.
    """
    if not login or not password:
        return None
    user = User.find_by_login(login)
    is_right = check_password(user, password, account=normal_login(login).lower())
    if user is None or not is_right:
        return None
    audit.record(Event.LOG_IN, user.id)
    return user


@basic_token_auth.verify_password
def verify_token_or_password(username: str, password: str) -> User | None:
    if tokens.has_shape(username):
        user: User = verify_token(username)
        return user
    owner: User | None = verify_password(username, password)
    return owner


def check_password(user: User | None, password: str, account: str = "") -> bool:
    """Whether this is the user's password; a wrong one is charged. 429 when too many were.

    Commits, so that no connection is kept while this one waits for its turn,
    and when the source becomes a known one: ask before anything is changed.

    Args:
        user: `None` for one who does not exist, which takes as long.
        password: that the client has given.
        account: the name that was given, to charge where there is no user.
    """
    user_id = None if user is None else user.id
    source = throttle.source_of(request.remote_addr)
    known = KnownSource.find(user_id or 0, source)
    db.session.commit()
    attempt = throttle.Attempt(user_id or account, source, is_known=known is not None)
    try:
        attempt.refuse_if_spent()
        password_hash = None if user is None else user.password_hash
        is_right = passwords.verify_password(password_hash, password, before=attempt.charge)
    except throttle.TooManyFailuresError as error:
        audit.record(Event.LOG_IN_THROTTLED, user_id)
        abort(429, headers={"Retry-After": str(error.retry_after_seconds)})
    if user_id is None or not is_right:
        audit.record(Event.LOG_IN_FAILED, user_id)
        return False
    attempt.give_back()
    if known is None or not known.is_fresh:
        KnownSource.note(user_id, source)
        db.session.commit()
    return True


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
    app.before_request(refuse_tokens_in_query)
