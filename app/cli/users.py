"""`flask users`."""

import re
import sys
from collections.abc import Callable

import click
import sqlalchemy as sa
from marshmallow import ValidationError

from app.api.schemas import NewUser
from app.cli.common import DatabaseGroup, find_user, login, refusal_of
from app.extensions import db, take_time
from app.http import audit
from app.http.audit import Event
from app.http.logs import printable
from app.models import AlreadyTakenError, User, activate, deactivate
from app.security import password_policy

group = DatabaseGroup("users", help="Create, list, deactivate users; set a password.")


@group.command("list")
def list_users() -> None:
    """List all users: id, user name, e-mail address, state."""
    query = sa.select(User).order_by(User.id).execution_options(yield_per=1000)
    for user in db.session.scalars(query):
        state = "active" if user.deactivated_at is None else "deactivated"
        fields = (str(user.id), user.username, user.email, state)
        click.echo("\t".join(printable(field) for field in fields))


@group.command("create")
@click.argument("username")
@click.argument("email")
def create_user(username: str, email: str) -> None:
    """Register a user. Asks for the password, or reads it from standard input."""
    body = {"username": username, "email": email, "password": _new_password()}
    try:
        user = User.register(**NewUser().load(body))
    except ValidationError as error:
        raise refusal_of(error) from None
    except AlreadyTakenError as error:
        raise click.ClickException(str(error)) from None
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
    db.session.commit()
    audit.record(Event.PASSWORD_CHANGED, found.id)
    click.echo(f"{found.username} has a new password; their tokens have ended")


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


def _switch(login: str, verb: Callable[[User], bool], event: Event) -> None:
    user = find_user(login)
    take_time(db.session.connection())  # it may change many rows
    changed = verb(user)
    db.session.commit()
    if changed:
        audit.record(event, user.id)
    click.echo(f"{user.username} is {event}" + ("" if changed else " already"))


def _new_password() -> str:
    # Never an argument: every user of the machine can read those.
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if re.search("[\ud800-\udfff]", password):  # bytes that are not UTF-8 are read as these
        raise click.ClickException("password: must be in UTF-8")
    return password
