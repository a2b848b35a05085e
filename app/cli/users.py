"""`flask users`."""

import re
import sys
from collections.abc import Callable

import click
from flask.cli import AppGroup
from marshmallow import ValidationError

from app import audit, passwords
from app.audit import Event
from app.cli.common import find_user, login, printable, refusal_of
from app.extensions import db, take_time
from app.models import AlreadyTakenError, User, activate, deactivate
from app.schemas import NewUser

group = AppGroup("users", help="Create, list, deactivate users; set a password.")


@group.command("list")
def list_users() -> None:
    """Show everybody: id, user name, e-mail address, state."""
    for user in User.all_even_deactivated():
        state = "active" if user.deactivated_at is None else "deactivated"
        fields = (str(user.id), user.username, user.email, state)
        click.echo("\t".join(printable(field) for field in fields))


@group.command("create")
@click.argument("username")
@click.argument("email")
def create_user(username: str, email: str) -> None:
    """Register a user. Asks for the password, or reads it from the standard input."""
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
    """Give USER a new password, and end their tokens. Asks as `create` does."""
    found = find_user(user)
    db.session.commit()  # nothing is kept open while somebody types
    password = _new_password()
    refusal = passwords.refusal(password, found.username, found.email)
    if refusal is not None:
        raise click.ClickException(f"password: {refusal}")
    found.set_password(password)
    db.session.commit()
    audit.record(Event.PASSWORD_CHANGED, found.id)
    click.echo(f"{found.username} has a new password; their tokens have ended")


@group.command("deactivate")
@login
def deactivate_user(user: str) -> None:
    """Take USER off every route; nothing is deleted, and the name stays taken."""
    _switch(user, deactivate, Event.DEACTIVATED)


@group.command("activate")
@login
def activate_user(user: str) -> None:
    """Put USER back, with everything they had but their tokens."""
    _switch(user, activate, Event.ACTIVATED)


def _switch(login: str, verb: Callable[[User], bool], event: Event) -> None:
    user = find_user(login)
    take_time(db.session.connection())  # a user may have many followers
    changed = verb(user)
    db.session.commit()
    if changed:
        audit.record(event, user.id)
    click.echo(f"{user.username} is {event}" + ("" if changed else " already"))


def _new_password() -> str:
    # Never an argument: those are seen by everybody on the machine.
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if re.search("[\ud800-\udfff]", password):  # what is no UTF-8 is read as these
        raise click.ClickException("password: must be in UTF-8")
    return password
