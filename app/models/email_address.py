"""The e-mail address of a user: whether it is verified, and how another one replaces it."""

from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so
from sqlalchemy.exc import IntegrityError

from app.clock import utc_now
from app.extensions import db, rows_changed
from app.models.errors import AlreadyTakenError, OutdatedError
from app.models.locks import wait_for_writers
from app.models.user import User


def address_to_verify(user: User) -> str | None:
    """Return the address that a link is to confirm; `None` if there is none."""
    return user.new_email or (None if user.has_verified_email else user.email)


def new_address(user: User, address: str, *, can_confirm: bool) -> dict[str, Any]:
    """Return the columns of a user who wants this address; the user is locked until the commit.

    A verified address stays until the new one is confirmed: then `email` is not among the
    columns. So does any address where it can be confirmed. Who wants the present address takes
    back the wish for another.

    Args:
        user: is read again.
        address: that is wanted.
        can_confirm: whether a link reaches the new address.

    Raises:
        AlreadyTakenError: another user has it. Early, for a good answer: the unique index
            decides.
        OutdatedError: the user was deactivated, or has a new password; the session is
            rolled back.
    """
    user.lock()
    db.session.refresh(user, ["email", "verified_email", "new_email"])
    if address == user.email:
        return {} if user.new_email is None else _no_new_address()
    if not (can_confirm or user.has_verified_email):
        return {"email": address, **_no_new_address()}
    same = sa.func.lower(User.email) == sa.func.lower(address)
    if db.session.scalar(sa.select(User.id).where(same, User.id != user.id)) is not None:
        raise AlreadyTakenError("email")
    return {"new_email": address, "email_changed_at": utc_now()}


def _no_new_address() -> dict[str, Any]:
    """Return the columns of a user who waits for no other address."""
    return {"new_email": None, "email_changed_at": utc_now()}


def verify_address(user: User) -> None:
    """Make the address that the user has confirmed the verified one.

    Args:
        user: as it was when the link was read.

    Raises:
        AlreadyTakenError: nothing was changed; the session is rolled back.
        OutdatedError: likewise; the user has changed since it was read.
    """
    address = address_to_verify(user)
    wait_for_writers(user.id)
    as_read = (
        User.id == user.id,
        User.is_active(),
        User.email == user.email,
        User.new_email.is_not_distinct_from(user.new_email),
        User.verified_email.is_not_distinct_from(user.verified_email),
    )
    values = {"email": address, "verified_email": address, **_no_new_address()}
    update = sa.update(User).where(*as_read).values(values)
    try:
        changed = rows_changed(update.execution_options(synchronize_session=False))
    except IntegrityError:
        db.session.rollback()
        raise AlreadyTakenError("email") from None
    if not changed:
        db.session.rollback()
        raise OutdatedError
    for name, value in values.items():
        so.attributes.set_committed_value(user, name, value)


def note_verified(user: User) -> None:
    """Note that the address that this object has is the user's, without committing."""
    same = User.id == user.id, User.email == user.email
    update = sa.update(User).where(*same).values(verified_email=user.email)
    db.session.execute(update.execution_options(synchronize_session=False))
    so.attributes.set_committed_value(user, "verified_email", user.email)
