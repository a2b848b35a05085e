"""The answers to credentials that are missing or do not do (RFC 6750, 3; RFC 7617, 2)."""

from collections.abc import Sequence
from typing import NoReturn

from apiflask import abort

from app.headers import request

REALM = "Microblog API"
FORBIDDEN = 403


def refuse_scope(names: Sequence[str]) -> NoReturn:
    """Answers 403 with what the token would need (RFC 6750, 3.1)."""
    text = f"this takes a token with the scope {' '.join(names)}"
    challenge("Bearer", FORBIDDEN, text, error="insufficient_scope", scope=" ".join(names))


def refuse_access_token() -> NoReturn:
    """Answers 403 to a token that no scope would help."""
    text = "this takes a password or the token of a log in; no access token does"
    challenge("Bearer", FORBIDDEN, text, error="insufficient_scope")


def log_in_again() -> NoReturn:
    """Answers 401: the token can live no longer."""
    challenge_token("log in again: the password was given too long ago")


def challenge_token(description: str) -> NoReturn:
    challenge("Bearer", error="invalid_token", error_description=description)


def challenge(
    scheme: str, status: int = 401, text: str | None = None, **parameters: str
) -> NoReturn:
    if scheme == "Basic" and request.headers.get("X-Requested-With") == "XMLHttpRequest":
        # A script in a page asks for the password itself. To a scheme that it
        # does not know, the browser does not open its own dialog.
        scheme = "xBasic"
    quoted = ", ".join(
        f'{name}="{value}"' for name, value in {"realm": REALM, **parameters}.items()
    )
    abort(status, text, headers={"WWW-Authenticate": f"{scheme} {quoted}"})
