"""The security requirements of an operation, from what is noted at its view."""

from collections.abc import Iterator
from typing import Any

from apiflask.security import HTTPBasicAuth, MultiAuth

from app.auth import ACCOUNT, basic_auth, log_in_auth
from app.models import SCOPES


def security_schemes(noted: dict[str, Any]) -> list[Any]:
    """Return the schemes of Flask-HTTPAuth, any of which will do.

    The one for tokens comes last: Swagger UI, given a password and a token, sends the
    last one.
    """
    auth = noted.get("auth")
    if isinstance(auth, MultiAuth):
        return [*reversed(auth.additional_auths), auth.main_auth]
    return [] if auth is None else [auth]


def takes_password_only(noted: dict[str, Any]) -> bool:
    return any(noted["auth"] is scheme for scheme in (basic_auth, log_in_auth))


def requirements(noted: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
    """Yield the `security` of an operation: one of these must be met, with all of its roles."""
    if noted.get("optional") or noted.get("auth") is log_in_auth:  # which also reads the body
        yield {}
    for scheme in security_schemes(noted):
        if isinstance(scheme, HTTPBasicAuth):
            yield {scheme.name: []}
        else:
            yield from ({scheme.name: roles} for roles in _alternatives(noted))


def in_words(noted: dict[str, Any]) -> str:
    """Return the requirements as an English sentence, for the description."""
    if "auth" not in noted:
        return "Public."
    if takes_password_only(noted):
        return "Takes a password, not a token."
    alternatives = _alternatives(noted)
    if alternatives == [[ACCOUNT]]:
        kind = "a login token"
    elif alternatives == [[]]:
        kind = "any token"
    else:
        kind = "a token with the scope " + " or ".join(
            " and ".join(f"`{role}`" for role in roles) for roles in alternatives
        )
    takes_password = any(isinstance(scheme, HTTPBasicAuth) for scheme in security_schemes(noted))
    groups = [
        " or ".join(f"`{name}`" for name in names) for names in noted.get("required_roles", [])
    ]
    roles = f", of a user with the role {' and '.join(groups)}" if groups else ""
    return f"Takes {kind}{', or a password' if takes_password else ''}{roles}."


def _alternatives(noted: dict[str, Any]) -> list[list[str]]:
    """Return lists of roles; a token must have all roles of one of them."""
    if "required_roles" in noted:  # which refuses access tokens
        return [[ACCOUNT]]
    roles = noted["roles"] or [ACCOUNT]
    if all(scope in roles for scope in SCOPES):  # every token has at least one
        return [[]]
    return [[role] if isinstance(role, str) else list(role) for role in roles]
