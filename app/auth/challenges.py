"""The answers 401 and 403, with their `WWW-Authenticate` (RFC 6750, 3; RFC 7617, 2)."""

from collections.abc import Sequence
from typing import NoReturn

from apiflask import abort
from flask import current_app

from app.http.headers import request


def require_password() -> NoReturn:
    """Answer 401: a password is missing or wrong."""
    challenge("Basic", charset="UTF-8")


def refuse_token(description: str = "the token is not valid") -> NoReturn:
    """Answer 401: a token is malformed, unknown, expired or revoked."""
    challenge("Bearer", error="invalid_token", error_description=description)


def refuse_scope(names: Sequence[str]) -> NoReturn:
    """Answer 403 with the scopes that the token lacks (RFC 6750, 3.1)."""
    text = f"this takes a token with the scope {' '.join(names)}"
    challenge("Bearer", 403, text, error="insufficient_scope", scope=" ".join(names))


def refuse_access_token() -> NoReturn:
    """Answer 403: access tokens are not accepted here, whatever their scopes."""
    text = "this takes a password or a login token, not an access token"
    challenge("Bearer", 403, text, error="insufficient_scope")


def refuse_role(names: Sequence[str]) -> NoReturn:
    """Answer 403 with the roles, one of which the user needs."""
    kind = "the role" if len(names) == 1 else "one of the roles"
    abort(403, f"this takes {kind} {', '.join(names)}")


def refuse_unverified() -> NoReturn:
    """Answer 403: the user must verify the e-mail address first (`REQUIRE_VERIFIED_EMAIL`)."""
    abort(403, "verify your e-mail address first: open the link that was mailed to you")


def require_log_in(max_age: int) -> NoReturn:
    """Answer 401: the password was given more than `max_age` seconds ago (RFC 9470, 3)."""
    challenge(
        "Bearer",
        error="insufficient_user_authentication",
        error_description="log in again: the password was given too long ago",
        max_age=str(max_age),
    )


def challenge(
    scheme: str, status: int = 401, text: str | None = None, **parameters: str
) -> NoReturn:
    """Answer `status` with a challenge.

    Args:
        scheme: "Basic" or "Bearer".
        status: of the response.
        text: the `message` of the body, which a 401 does not have.
        parameters: of the challenge, beside the realm.
    """
    if scheme == "Basic" and request.headers.get("X-Requested-With") == "XMLHttpRequest":
        # The script asks for the password itself. The browser does not open its own
        # dialog for a scheme that it does not know.
        scheme = "xBasic"
    values = {"realm": current_app.config["APP_NAME"], **parameters}
    quoted = ", ".join(f'{name}="{value}"' for name, value in values.items())
    abort(status, text, headers={"WWW-Authenticate": f"{scheme} {quoted}"})
