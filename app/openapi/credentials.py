"""Who may use a route, as the document says it: from what `auth_required` has noted at the view."""

from collections.abc import Iterator
from typing import Any

from apiflask.security import HTTPBasicAuth, MultiAuth

from app.models import SCOPES
from app.schemes import ACCOUNT

SCHEMES = {
    "Token": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token of a log in, or an access token.",
    },
    "Password": {
        "type": "http",
        "scheme": "basic",
        "description": "User name or e-mail address, and password. Everywhere but at the log in, "
        "a token as user name does as well.",
    },
}


def requirements(said: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
    """Which credentials do: one of these, a token with the role that is named.

    The token comes last, as a page that has been given both sends the last.
    """
    roles = said.get("roles") or [ACCOUNT]
    for scheme in reversed(_schemes(said)):
        if scheme == "Password" or set(roles) >= set(SCOPES):
            yield {scheme: []}
        else:
            yield from ({scheme: [role]} for role in roles)


def who(said: dict[str, Any]) -> str:
    """Who may use the operation, in words."""
    schemes, roles = _schemes(said), said.get("roles")
    if not schemes:
        return "Open to everybody."
    if schemes == ["Password"]:
        return "Takes a password, and no token."
    if not roles:
        kind = "the token of a log in"
    elif set(roles) >= set(SCOPES):
        kind = "any token"
    else:
        kind = "a token with the scope " + " or ".join(f"`{role}`" for role in roles)
    return f"Takes {kind}{', or a password' if 'Password' in schemes else ''}."


def _schemes(said: dict[str, Any]) -> list[str]:
    auth = said.get("auth")
    each = auth._auths if isinstance(auth, MultiAuth) else [auth] if auth else []  # noqa: SLF001  it has no other name
    return ["Password" if isinstance(one, HTTPBasicAuth) else "Token" for one in each]
