"""`flask users`."""

import re
import sys
from collections.abc import Callable

import click
import sqlalchemy as sa
from marshmallow import ValidationError

from app.api.schemas import NewUser, refused_password
from app.cli.common import DatabaseGroup, find_user, login, refusal_of
from app.extensions import db, remove_timeout
from app.http import audit
from app.http.audit import Event
from app.http.logs import printable
from app.mail.messages import PASSWORD_CHANGED
from app.mail.outbox import put_notice, put_verification
from app.models import (
    AlreadyTakenError,
    TooManyError,
    User,
    activate,
    deactivate,
    grant_role,
    note_verified,
    recount,
    revoke_role,
)
from app.models.roles import ALLOWED, MOST_ROLES, is_role
from app.security import password_policy

group = DatabaseGroup("users", help="Create, list, deactivate users; set a password; grant roles.")


@group.command("list")
def list_users() -> None:
    """List all users: id, user name, e-mail address, state, roles."""
    query = sa.select(User).order_by(User.id).execution_options(yield_per=1000)
    for user in db.session.scalars(query):
        state = "active" if user.deactivated_at is None else "deactivated"
        fields = [str(user.id), user.username, user.email, state]
        if user.roles:
            fields.append(" ".join(user.roles))
        click.echo("\t".join(printable(field) for field in fields))


@group.command("create")
@click.argument("username")
@click.argument("email")
def create_user(username: str, email: str) -> None:
    """Register a user. Asks for the password, or reads it from standard input."""
    body = {"username": username, "email": email, "password": _new_password()}
    try:
        fields = NewUser().load(body)
    except ValidationError as error:
        raise refusal_of(error) from None
    refusal = refused_password(fields)
    if refusal is not None:
        raise click.ClickException(f"password: {refusal}")
    try:
        user = User.register(**fields)
    except AlreadyTakenError as error:
        raise click.ClickException(str(error)) from None
    put_verification(user)
    db.session.commit()
    click.echo(f"{user.username} has the id {user.id}")


@group.command("password")
@login
def set_password(user: str) -> None:
    """Set a new password for USER, and end their tokens. Asks for it like `create`."""
    found = find_user(user)
    db.session.commit()  # no transaction stays open while somebody types
    password = _new_password()
    refusal = password_policy.refusal(password, found.username, found.email)
    if refusal is not None:
        raise click.ClickException(f"password: {refusal}")
    found.set_password(password)
    put_notice(PASSWORD_CHANGED, found, source=None)
    db.session.commit()
    audit.record(Event.PASSWORD_CHANGED, found.id)
    click.echo(f"{found.username} has a new password; their tokens have ended")


@group.command("verify")
@login
def verify(user: str) -> None:
    """Take the e-mail address of USER as verified, without a link."""
    found = find_user(user)
    note_verified(found)
    db.session.commit()
    click.echo(f"{found.email} is verified")


@group.command("deactivate")
@login
def deactivate_user(user: str) -> None:
    """Hide USER from every route; nothing is deleted, and the name stays taken."""
    _switch(user, deactivate, Event.DEACTIVATED)


@group.command("activate")
@login
def activate_user(user: str) -> None:
    """Activate USER again; their ended tokens stay ended."""
    _switch(user, activate, Event.ACTIVATED)


@group.command("recount")
def recount_stored() -> None:
    """Count users, and what is stored for each of them, anew; safe at any time."""
    wrong = recount()
    click.echo("1 row was wrong" if wrong == 1 else f"{wrong} rows were wrong")


def _switch(login: str, verb: Callable[[User], bool], event: Event) -> None:
    user = find_user(login)
    remove_timeout(db.session.connection())  # it may change many rows
    changed = verb(user)
    db.session.commit()
    if changed:
        audit.record(event, user.id)
    click.echo(f"{user.username} is {event}" + ("" if changed else " already"))


@group.command("grant")
@login
@click.argument("role")
def grant(user: str, role: str) -> None:
    """Give USER the role ROLE, such as `admin`; it counts from the next request."""
    if not is_role(role):
        raise click.ClickException(f"role: must be {ALLOWED}")
    found = find_user(user)
    try:
        is_new = grant_role(found, role)
    except TooManyError:
        raise click.ClickException(f"limit of {MOST_ROLES} roles reached") from None
    db.session.commit()
    if is_new:
        audit.record(Event.ROLE_GRANTED, found.id, role=role)
    click.echo(f"{found.username} has the role {role}" + ("" if is_new else " already"))


@group.command("revoke")
@login
@click.argument("role")
def revoke(user: str, role: str) -> None:
    """Take the role ROLE from USER; it opens nothing from then on."""
    found = find_user(user)
    if not revoke_role(found, role):
        has = ", ".join(found.roles) or "none"
        raise click.ClickException(f"{found.username} does not have the role {role!r}; has: {has}")
    db.session.commit()
    audit.record(Event.ROLE_REVOKED, found.id, role=role)
    click.echo(f"{found.username} does not have the role {role} any more")


def _new_password() -> str:
    # Never an argument: every user of the machine can read those.
    if sys.stdin is None:
        raise click.ClickException("password: standard input is closed")
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if re.search("[\ud800-\udfff]", password):  # bytes that are not UTF-8 are read as these
        raise click.ClickException("password: must be in UTF-8")
    return password
