"""Who may use a route, from what `auth_required` has noted at its view."""

from collections.abc import Iterator
from typing import Any

from apiflask.security import HTTPBasicAuth, MultiAuth

from app.auth import basic_auth
from app.models import SCOPES
from app.schemes import ACCOUNT


def schemes(noted: dict[str, Any]) -> list[Any]:
    """The objects of Flask-HTTPAuth, any of which will do.

    The one for tokens comes last, as a page that has been given a password and a
    token sends the last that is named.
    """
    auth = noted.get("auth")
    if isinstance(auth, MultiAuth):
        return [*reversed(auth.additional_auths), auth.main_auth]
    return [] if auth is None else [auth]


def requirements(noted: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
    """The `security` of an operation: one of these must be met, each with all of its roles."""
    for scheme in schemes(noted):
        if isinstance(scheme, HTTPBasicAuth):
            yield {scheme.name: []}
        else:
            yield from ({scheme.name: roles} for roles in _alternatives(noted))


def in_words(noted: dict[str, Any]) -> str:
    """The same, for people."""
    if "auth" not in noted:
        return "Open to everybody."
    if noted["auth"] is basic_auth:
        return "Takes a password, and no token."
    alternatives = _alternatives(noted)
    if alternatives == [[ACCOUNT]]:
        kind = "the token of a log in"
    elif alternatives == [[]]:
        kind = "any token"
    else:
        kind = "a token with the scope " + " or ".join(
            " and ".join(f"`{role}`" for role in roles) for roles in alternatives
        )
    takes_password = any(isinstance(scheme, HTTPBasicAuth) for scheme in schemes(noted))
    return f"Takes {kind}{', or a password' if takes_password else ''}."


def _alternatives(noted: dict[str, Any]) -> list[list[str]]:
    """What a token must have: all roles of one of the lists."""
    roles = noted["roles"] or [ACCOUNT]
    if all(scope in roles for scope in SCOPES):  # every token has one of them
        return [[]]
    return [[role] if isinstance(role, str) else list(role) for role in roles]
