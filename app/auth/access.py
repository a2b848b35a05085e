"""Who may use a route. A route without a declaration answers 403."""

from collections import UserDict
from collections.abc import Callable
from functools import wraps
from typing import Any, Self, TypeVar

from apiflask import APIFlask, abort

from app.auth.credential import current_credential

R = TypeVar("R")
View = Callable[..., Any]


def public(view: Callable[..., R]) -> Callable[..., R]:
    """Let anybody use a route, without credentials."""
    view.is_public = True  # type: ignore[attr-defined]  # functions have any attribute
    return view


def own_account(view: Callable[..., R]) -> Callable[..., R]:
    """Answer 403 unless the route's `id` is that of the current user; call the view without it.

    Put it below `auth_required` and above `input`: whoever may not use the route
    learns nothing about its body.
    """

    @wraps(view)
    def decorated(id: int, **kwargs: Any) -> R:
        credential = current_credential()
        if credential is None or credential.user_id != id:
            abort(403)
        return view(**kwargs)

    return decorated


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
