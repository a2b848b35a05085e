"""Roles: what users may do beyond their own account. A user has none unless one is granted."""

import re

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.extensions import db
from app.models.errors import TooManyError
from app.models.locks import wait_for_writers
from app.models.user import User

ALLOWED = "1 to 32 of the characters a-z 0-9 _ -, the first one a letter"
MOST_ROLES = 15  # of a user; they fit into the column, and into a header


def is_role(name: str) -> bool:
    """Return whether a role may have this name."""
    return re.fullmatch("[a-z][a-z0-9_-]{0,31}", name) is not None


def grant_role(user: User, role: str) -> bool:
    """Give a user a role, without committing; return whether it is a new one.

    Raises:
        TooManyError: the user has `MOST_ROLES` of them.
        ValueError: the role is no word as `ALLOWED` says.
    """
    if not is_role(role):
        raise ValueError(f"a role must be {ALLOWED}")
    current = _locked_roles(user)
    if role in current:
        return False
    if len(current) >= MOST_ROLES:
        raise TooManyError
    _set_roles(user, [*current, role])
    return True


def revoke_role(user: User, role: str) -> bool:
    """Take a role from a user, without committing; return whether they had it.

    Waits for requests that write by right of it.
    """
    current = _locked_roles(user)
    if role not in current:
        return False
    _set_roles(user, [name for name in current if name != role])
    return True


def has_role(user_id: int, names: tuple[str, ...]) -> bool:
    """Return whether the user has one of the roles now, whatever was read before."""
    return not set(_roles_of(user_id)).isdisjoint(names)


def _locked_roles(user: User) -> list[str]:
    wait_for_writers(user.id)
    return _roles_of(user.id)


def _roles_of(user_id: int) -> list[str]:
    # Not through the session: see `_lock` in app/models/locks.py.
    roles = db.session.connection().scalar(sa.select(User.roles).where(User.id == user_id))
    return roles or []


def _set_roles(user: User, roles: list[str]) -> None:
    update = sa.update(User).where(User.id == user.id).values(roles=roles)
    db.session.execute(update.execution_options(synchronize_session=False))
    so.attributes.set_committed_value(user, "roles", roles)
