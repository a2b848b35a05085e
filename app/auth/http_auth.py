"""Who is asking: the schemes of Flask-HTTPAuth, and the check before a view.

- `basic_auth` takes a user name or e-mail address and the password: to log in.
- `log_in_auth` takes the same, or both in the JSON of the request: for `POST /api/tokens`.
- `token_auth` takes `Authorization: Bearer <token>`.
- `any_auth` takes a token either way (a client that only speaks Basic sends it as
  the user name), or a password. Routes are protected with this one.
"""

import base64
from functools import lru_cache, partial, wraps
from inspect import iscoroutinefunction
from typing import Any, NoReturn

import apiflask
from apiflask import abort
from flask import current_app, has_request_context
from werkzeug.datastructures import Authorization

from app.auth.access import View, note, require_verified_address
from app.auth.challenges import (
    challenge,
    refuse_access_token,
    refuse_scope,
    refuse_token,
    require_password,
)
from app.auth.credential import ACCOUNT, Credential, Kind, find_credential
from app.auth.password_check import try_password
from app.auth.second_check import check_before_writes
from app.auth.token_headers import EXPIRY_ANNOUNCED, announce_expiry
from app.clock import utc_now
from app.http import audit, metrics
from app.http.audit import Event
from app.http.body import load_json
from app.http.headers import SAFE_METHODS, request
from app.models import User
from app.models.login import normal_login
from app.security import passwords, tokens


class _Scopes:
    """What the schemes share: a route names scopes, and its view notes them."""

    scheme: str  # "Basic" or "Bearer"

    def current_user(self) -> Any:  # a method as of Flask-HTTPAuth; APIFlask has a property
        """Return the user of the request, to read or to change, without a SELECT.

        `None` on a public route, and if `optional` credentials are missing. To read
        only the user's id or name, ask `current_credential()`, which costs less.
        """
        credential: Credential | None = request.credential if has_request_context() else None
        return None if credential is None else credential.user

    def current_credential(self) -> Credential:
        """Return the credential of the request; `None` if `current_user()` is `None`."""
        credential: Credential = request.credential
        return credential

    def login_required(self, f: View | None = None, role: Any = None, optional: Any = None) -> Any:
        """Protect a view.

        Args:
            f: the view.
            role: a scope, or a list of scopes of which one is enough; an inner list
                names scopes that are all required. `None` refuses access tokens.
            optional: whether the view is also called without credentials.
        """
        if f is None:
            return partial(self.login_required, role=role, optional=optional)
        view = self._protect(f, role=role, optional=optional)
        note(view, auth=self, roles=_as_list(role), optional=bool(optional))
        return view

    def _protect(self, f: View, **options: Any) -> View:
        protected: View = super().login_required(**options)(f)  # type: ignore[misc]  # of the class beside
        return protected

    def ensure_sync(self, f: View) -> View:
        """Let an async view be called; Flask-HTTPAuth asks for each callback and the view."""
        return current_app.ensure_sync(f) if _is_async(f) else f

    def get_auth(self) -> Authorization | None:
        """Return the credentials of the request, if they are of this scheme."""
        auth = _authorization()
        return auth if auth is not None and auth.type == self.scheme.lower() else None

    def authorize(self, role: Any, credential: Credential, _auth: Any) -> bool:
        """Answer 403 unless the credential has one of the scopes."""
        scopes, roles = credential.scopes, _as_list(role)
        is_allowed = any(
            one in scopes if isinstance(one, str) else set(one) <= set(scopes)
            for one in roles or [ACCOUNT]
        )
        if not is_allowed:
            if not roles:
                refuse_access_token()
            refuse_scope([roles[0]] if isinstance(roles[0], str) else roles[0])
        return True


_is_async = lru_cache(iscoroutinefunction)
_ACCESS_TOKEN = Kind.ACCESS_TOKEN  # to look it up in the enumeration is a call


def _as_list(role: Any) -> list[Any]:
    if role is None:
        return []
    return list(role) if isinstance(role, list | tuple) else [role]


class HTTPBasicAuth(_Scopes, apiflask.HTTPBasicAuth):
    """Only the scheme `Basic`, in any case, with credentials in UTF-8 (RFC 7617), or Latin-1.

    Many clients send Latin-1: `requests` a `str`, a browser's `btoa`. Flask-HTTPAuth takes any
    scheme whose credentials decode, `Bearer` among them.
    """

    def __init__(self) -> None:
        super().__init__(
            name="Password",
            description="User name or e-mail address, and password. Everywhere but at the log in, "
            "a token may be sent as the user name.",
        )

    def is_compatible_auth(self, headers: Any) -> bool:  # noqa: ARG002  as Flask-HTTPAuth calls it
        return self.get_auth() is not None

    def get_auth(self) -> Authorization | None:
        return super().get_auth() or _basic_in_latin_1()


class LogInAuth(HTTPBasicAuth):
    """`Basic`; or, without an `Authorization` header, `username` and `password` in the JSON."""

    def get_auth(self) -> Authorization | None:
        if "HTTP_AUTHORIZATION" in request.environ or not request.has_body:
            return super().get_auth()
        if not request.is_json:
            return None
        body = load_json(request)
        names = {"username", "password"}
        given = {name: body[name] for name in names & set(body)} if type(body) is dict else {}
        errors = {name: ["must be given"] for name in names - set(given)}
        errors |= {name: ["must be a string"] for name in given if type(given[name]) is not str}
        if given and errors:
            abort(400, detail={"json": errors})
        return Authorization("basic", given) if given else None


class HTTPTokenAuth(_Scopes, apiflask.HTTPTokenAuth):
    def __init__(self) -> None:
        super().__init__(
            name="Token",
            description="A login token, or an access token with the scopes chosen when it was "
            "created. Only a login token has `account`.",
        )


class MultiAuth(_Scopes, apiflask.MultiAuth):
    """Bearer, unless the request has credentials for Basic."""

    def _protect(self, f: View, **options: Any) -> View:
        # Once for each scheme; Flask-HTTPAuth would decorate the view at each request.
        (other,) = self.additional_auths
        by_token = self.main_auth.login_required(**options)(f)
        by_other = other.login_required(**options)(f)

        @wraps(f)
        def protected(*args: Any, **kwargs: Any) -> Any:
            # Parsed only where it may be for Basic: the token is parsed by its own scheme.
            is_other = _names_basic() and other.is_compatible_auth(request.headers)
            return (by_other if is_other else by_token)(*args, **kwargs)

        return protected


def _authorization() -> Authorization | None:
    """Return the parsed `Authorization` header; `None` if it is missing or malformed."""
    if request.method == "OPTIONS":  # for which Flask-HTTPAuth would call the view
        challenge("Bearer")
    try:
        return request.authorization
    except ValueError:  # raised by Werkzeug for Basic credentials that are not ASCII
        return None


def _basic_in_latin_1() -> Authorization | None:
    """Return credentials for `Basic` that are not UTF-8; `None` if there are none."""
    scheme, _, encoded = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(" \t"), validate=True).decode("latin-1")
    except ValueError:
        return None
    username, _, password = text.partition(":")
    return Authorization("basic", {"username": username, "password": password})


def _names_basic() -> bool:
    header: str = request.environ.get("HTTP_AUTHORIZATION", "")
    return header[:5].lower() == "basic"


basic_auth = HTTPBasicAuth()
log_in_auth = LogInAuth()
token_auth = HTTPTokenAuth()
# In the OpenAPI document, the two that take a password are one.
_token_or_password_auth = HTTPBasicAuth()
any_auth = MultiAuth(token_auth, _token_or_password_auth)


# -- Before the view -----------------------------------------------------------------


@basic_auth.verify_password
@log_in_auth.verify_password
def verify_password(login: str, password: str) -> Credential | None:
    """Return the credential of a user name or e-mail address and the right password.

    HTTP libraries send empty texts where they have no credentials.
    """
    if not login or not password:
        return None
    user = User.find_by_login(login)
    account = normal_login(login).lower() if user is None else ""
    readings = [password] if password.isascii() else [password, passwords.as_latin_1(password)]
    if not try_password(user, readings, account) or user is None:
        require_password()  # also where credentials are optional
    audit.record(Event.LOG_IN, user.id)
    credential = Credential(
        kind=Kind.PASSWORD,
        user_id=user.id,
        username=user.username,
        load_user=lambda: user,
        revoke=user.revoke_token,
        lock_if_valid=partial(User.lock_if_password, user.id, user.password_changed_at),
        roles=tuple(user.roles),
        password_given_at=utc_now(),
    )
    return _accept(credential)


@_token_or_password_auth.verify_password
def verify_token_or_password(username: str, password: str) -> Any:
    is_token = tokens.has_shape(username)
    return verify_token(username) if is_token else verify_password(username, password)


@token_auth.verify_token
def verify_token(token: str) -> Credential:
    credential = find_credential(token)
    expires_at = None if credential is None else credential.expires_at
    if metrics.current is not None:
        metrics.current.count_token("request", token, expires_at)
    if credential is None or expires_at is None:
        refuse_token()
    now = utc_now()
    if expires_at <= now:
        refuse_token("the token has expired")
    if credential.kind is _ACCESS_TOKEN and expires_at <= now + EXPIRY_ANNOUNCED:
        announce_expiry(credential.seconds_left)
    if credential.charge is not None:
        credential.charge()
    if credential.note_use is not None:
        credential.note_use()
    return _accept(credential)


def _accept(credential: Credential) -> Credential:
    request.credential = credential
    if current_app.config["REQUIRE_VERIFIED_EMAIL"]:
        require_verified_address(credential)
    if request.method not in SAFE_METHODS:
        check_before_writes()
    return credential


@token_auth.error_handler
def refuse_without_token(_status: int) -> NoReturn:
    auth = _authorization()
    if auth is not None and auth.type == "bearer":  # without a text that can be a token
        refuse_token()
    challenge("Bearer")  # RFC 6750: no more than that without credentials


@basic_auth.error_handler
@log_in_auth.error_handler
@_token_or_password_auth.error_handler
def refuse_without_password(_status: int) -> NoReturn:
    require_password()
