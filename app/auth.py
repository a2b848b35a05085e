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
import sqlalchemy as sa
from apiflask import abort
from flask import after_this_request, current_app, g

from app import audit, passwords, throttle, tokens
from app.audit import Event
from app.challenges import (
    FORBIDDEN,
    REALM,
    challenge,
    challenge_token,
    refuse_access_token,
    refuse_scope,
)
from app.extensions import db
from app.headers import request
from app.logins import normal_login
from app.models import SCOPES, AccessToken, KnownSource, User
from app.schemes import ACCOUNT, HTTPBasicAuth, HTTPTokenAuth, MultiAuth

R = TypeVar("R")


# To the OpenAPI document, the two that take a password are one.
basic_auth = HTTPBasicAuth(realm=REALM)
token_auth = HTTPTokenAuth(realm=REALM)
basic_token_auth = HTTPBasicAuth(realm=REALM)
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
    g.access_token = None
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
    user, access_token = find_token(token)
    if user is None:
        challenge_token("the token is not valid")
    if not (access_token or user).has_live_token:
        challenge_token("the token has expired")
    g.access_token = access_token
    if access_token is not None:
        note_use(access_token)
    return user


def find_token(text: str) -> tuple[User | None, AccessToken | None]:
    """Whose token this is, live or expired, and with an access token that.

    Two times `None` if it is nobody's.
    """
    return User.find_by_access_token(text) or (User.find_by_token(text), None)


def note_use(access_token: AccessToken) -> None:
    """Notes that it was used, once the answer is sent; nothing depends on it."""
    if access_token.use_is_noted:
        return
    id = access_token.id  # the object belongs to this request
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  Flask's way

    def note() -> None:
        with app.app_context():
            try:
                AccessToken.note_use(id)
            except sa.exc.SQLAlchemyError:
                app.logger.info("the use of access token %s is not noted", id)

    after_this_request(lambda response: (response.call_on_close(note), response)[1])


@basic_auth.get_user_roles
@basic_token_auth.get_user_roles
@token_auth.get_user_roles
def scopes(_user: User | None = None) -> list[str]:
    """What the credentials of this request open."""
    token = presented_access_token()
    return [*SCOPES, ACCOUNT] if token is None else token.scope.split()


@token_auth.error_handler
def token_required(status: int) -> NoReturn:
    if status == FORBIDDEN:
        _refuse_scope()
    auth = request.authorization
    if auth is not None and auth.type == "bearer":  # followed by nothing that can be a token
        challenge_token("the token is not valid")
    challenge("Bearer")  # RFC 6750: without credentials, no more than that


@basic_auth.error_handler
@basic_token_auth.error_handler
def password_required(status: int) -> NoReturn:
    if status == FORBIDDEN:
        _refuse_scope()
    challenge("Basic", charset="UTF-8")


def _refuse_scope() -> NoReturn:
    roles = declared(_view()).get("roles")
    if not roles:
        refuse_access_token()
    # Of several that would do, the first; a list is of those that are needed together.
    refuse_scope([roles[0]] if isinstance(roles[0], str) else roles[0])


def declared(view: Callable[..., Any]) -> dict[str, Any]:
    """What the decorators of a view have noted at it."""
    spec: dict[str, Any] = getattr(view, "_spec", {})
    return spec


def _view() -> Callable[..., Any]:
    return current_app.view_functions[request.endpoint or ""]


def public(view: Callable[..., R]) -> Callable[..., R]:
    """Lets anybody use a route; one that says neither this nor `auth_required` refuses."""
    view.is_public = True  # type: ignore[attr-defined]  # functions have any attribute
    return view


def refuse_undeclared() -> None:
    """Answers 403 where a view does not say who may use it."""
    if request.endpoint is None or "auth" in declared(_view()):
        return
    if not getattr(_view(), "is_public", False):
        abort(403, "this route does not say who may use it: auth_required, or public")


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


def presented_access_token() -> AccessToken | None:
    """The access token this request came with; `None` with a login token or a password."""
    token: AccessToken | None = g.access_token
    return token


def granted_scope() -> str:
    """What the credentials of this request open, in the form of RFC 6749, 3.3."""
    return " ".join(name for name in scopes() if name in SCOPES)


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
    app.before_request(refuse_undeclared)
