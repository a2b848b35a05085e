"""Who may use a route. A route without a declaration answers 403."""

from collections import UserDict
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, Self, TypeVar

from apiflask import APIFlask, abort
from flask import current_app

from app.auth.challenges import (
    refuse_access_token,
    refuse_role,
    refuse_unverified,
    require_log_in,
)
from app.auth.credential import Credential, Kind, current_credential
from app.clock import utc_now
from app.http.headers import request
from app.models.roles import ALLOWED, is_role

R = TypeVar("R")
View = Callable[..., Any]


def public(view: Callable[..., R]) -> Callable[..., R]:
    """Let anybody use a route, without credentials."""
    view.is_public = True  # type: ignore[attr-defined]  # functions have any attribute
    return view


def open_to_unverified(view: Callable[..., R]) -> Callable[..., R]:
    """Let a user whose e-mail address is not verified use a route, whatever the settings.

    Where `REQUIRE_VERIFIED_EMAIL` is on, all other routes are 403 for such a user.
    """
    view.is_open_to_unverified = True  # type: ignore[attr-defined]  # functions have any attribute
    return view


def own_account(view: Callable[..., R]) -> Callable[..., R]:
    """Answer 403 unless the route's `id` is that of the current user; call the view without it.

    Put it below `auth_required` and above `input`: whoever may not use the route
    learns nothing about its body.
    """

    @wraps(view)
    def decorated(*args: Any, id: int, **kwargs: Any) -> R:
        credential = current_credential()
        if credential is None or credential.user_id != id:
            abort(403)
        return view(*args, **kwargs)

    return decorated


def fresh(view: Callable[..., R]) -> Callable[..., R]:
    """Answer 401 unless the password was given within `FRESH_LOGIN_SECONDS`.

    For what a thief of a token must not do. A password in the request is fresh. Put it
    below `auth_required` and above `input`.
    """

    @wraps(view)
    def decorated(*args: Any, **kwargs: Any) -> R:
        require_fresh_log_in()
        return view(*args, **kwargs)

    return decorated


def roles_required(*names: str) -> Callable[[View], View]:
    """Answer 403 unless the user has one of the roles; to require several, repeat it.

    An access token is refused, whatever its scopes: it would keep the rights of a role in
    a script for as long as it lives. A role that was taken away opens nothing from then
    on, and a request that is under way writes nothing. Put it below `auth_required` and
    above `input`.

    Raises:
        TypeError: it is above `auth_required`.
        ValueError: a name is none of a role.
    """
    wrong = [name for name in names if not is_role(name)]
    if wrong or not names:
        raise ValueError(f"a role must be {ALLOWED}; not {', '.join(map(repr, wrong)) or 'none'}")

    def decorate(view: View) -> View:
        if "auth" in declared(view):
            raise TypeError("put roles_required below auth_required")

        @wraps(view)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            _require_role(names)
            return view(*args, **kwargs)

        note(decorated, required_roles=[*declared(view).get("required_roles", []), names])
        return decorated

    return decorate


def _require_role(names: tuple[str, ...]) -> None:
    credential = current_credential()
    if credential is not None and credential.kind is Kind.ACCESS_TOKEN:
        refuse_access_token()
    if credential is None or set(credential.roles).isdisjoint(names):
        refuse_role(names)
    request.required_roles += (names,)  # for the second check


def require_verified_address(credential: Credential) -> None:
    """Answer 403 if the route is closed to the user."""
    if is_closed_to(credential):
        view = current_app.view_functions.get(request.endpoint or "")
        if not getattr(view, "is_open_to_unverified", False):
            refuse_unverified()


def is_closed_to(credential: Credential) -> bool:
    """Return whether `REQUIRE_VERIFIED_EMAIL` closes the API to the user."""
    is_required: bool = current_app.config["REQUIRE_VERIFIED_EMAIL"]
    return is_required and not credential.user.has_verified_email


def require_fresh_log_in() -> None:
    """Answer 401 as `fresh` does; for a view that needs it in some cases only."""
    credential = current_credential()
    max_age = current_app.config["FRESH_LOGIN_SECONDS"]
    given_at = None if credential is None else credential.password_given_at
    if given_at is None or given_at < utc_now() - timedelta(seconds=max_age):
        require_log_in(max_age)


# APIFlask stores the arguments of its decorators in the undocumented attribute `_spec`.


def declared(view: View) -> dict[str, Any]:
    """Return what the decorators of a view have noted."""
    spec: dict[str, Any] = getattr(view, "_spec", {})
    return spec


def note(view: View, **what: Any) -> None:
    """Note something at a view, as APIFlask's decorators do."""
    view._spec = {**declared(view), **what}  # type: ignore[attr-defined]  # noqa: SLF001  functions have any attribute


def methods_of(view: View) -> dict[str, View]:
    """Return the methods of a class-based view by their names; of others, nothing."""
    view_class = getattr(view, "view_class", None)
    names = getattr(view_class, "methods", None) or ()
    methods = {name: getattr(view_class, name.lower(), None) for name in names}
    return {name: method for name, method in methods.items() if method is not None}


class _Views(UserDict[str, View]):
    """View functions by endpoint; a view without a declaration is replaced by a `_Refusal`."""

    def __setitem__(self, endpoint: str, view: View) -> None:
        super().__setitem__(endpoint, view if _says_who(view) else _Refusal(view))

    # UserDict's own bypasses `__setitem__`.
    def __ior__(self, other: Any) -> Self:  # type: ignore[misc, override]  # unlike its `|`
        self.update(other)
        return self


def _says_who(view: View) -> bool:
    if "auth" in declared(view) or getattr(view, "is_public", False):
        return True
    methods = methods_of(view)
    return bool(methods) and all(map(_says_who, methods.values()))


class _Refusal:
    """Answers 403 in place of a view. Equals it, as Flask compares views of one endpoint."""

    def __init__(self, view: View) -> None:
        self.view = view

    def __call__(self, **_: Any) -> Any:
        text = "this route declares no access rule; add auth_required, login_required or public"
        abort(403, text)

    def __eq__(self, other: object) -> bool:
        return other is self.view

    def __hash__(self) -> int:
        return hash(self.view)


def init_app(app: APIFlask) -> None:
    app.view_functions = _Views(app.view_functions)  # type: ignore[assignment]  # is a mapping
