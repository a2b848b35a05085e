"""The commands `flask users`, `flask tokens` and `flask fake`: what an owner does by hand."""

import re
import sys
from collections.abc import Callable, Iterator

import click
from apiflask import APIFlask
from flask.cli import AppGroup
from marshmallow import ValidationError

from app import audit, fake, passwords
from app.audit import Event
from app.extensions import db, take_time
from app.models import AlreadyTakenError, User, activate, deactivate
from app.schemas import NewUser

users_cli = AppGroup("users", help="Create, list, deactivate users; set a password.")
tokens_cli = AppGroup("tokens", help="Take tokens back.")
fake_cli = AppGroup("fake", help="Fill the database with users and posts that nobody wrote.")

_login = click.argument("user")


# -- Users -----------------------------------------------------------------------------


@users_cli.command("list")
def list_users() -> None:
    """Show everybody: id, user name, e-mail address, state."""
    for user in User.all_even_deactivated():
        state = "active" if user.deactivated_at is None else "deactivated"
        fields = (str(user.id), user.username, user.email, state)
        click.echo("\t".join(_printable(field) for field in fields))


def _printable(text: str) -> str:
    """`text`, without what a terminal would obey; an older database may hold any name."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


@users_cli.command("create")
@click.argument("username")
@click.argument("email")
def create_user(username: str, email: str) -> None:
    """Register a user. Asks for the password, or reads it from the standard input."""
    body = {"username": username, "email": email, "password": _new_password()}
    try:
        user = User.register(**NewUser().load(body))
    except ValidationError as error:
        lines = [f"{name}: {' '.join(texts)}" for name, texts in error.messages_dict.items()]
        raise click.ClickException("\n".join(lines)) from None
    except AlreadyTakenError as error:
        raise click.ClickException(str(error)) from None
    db.session.commit()
    click.echo(f"{user.username} has the id {user.id}")


@users_cli.command("password")
@_login
def set_password(user: str) -> None:
    """Give USER a new password, and end their token. Asks as `create` does."""
    found = _find(user)
    db.session.commit()  # nothing is kept open while somebody types
    password = _new_password()
    refusal = passwords.refusal(password, found.username, found.email)
    if refusal is not None:
        raise click.ClickException(f"password: {refusal}")
    found.set_password(password)
    db.session.commit()
    audit.record(Event.PASSWORD_CHANGED, found.id)
    click.echo(f"{found.username} has a new password; their token has ended")


@users_cli.command("deactivate")
@_login
def deactivate_user(user: str) -> None:
    """Take USER off every route; nothing is deleted, and the name stays taken."""
    _switch(user, deactivate, Event.DEACTIVATED)


@users_cli.command("activate")
@_login
def activate_user(user: str) -> None:
    """Put USER back, with everything they had but their token."""
    _switch(user, activate, Event.ACTIVATED)


def _switch(login: str, verb: Callable[[User], bool], event: Event) -> None:
    user = _find(login)
    take_time(db.session.connection())  # a user may have many followers
    changed = verb(user)
    db.session.commit()
    if changed:
        audit.record(event, user.id)
    click.echo(f"{user.username} is {event}" + ("" if changed else " already"))


def _find(login: str) -> User:
    user = User.find_even_deactivated(login)
    if user is None:
        raise click.ClickException(f"nobody has the user name or e-mail address {login!r}")
    return user


def _new_password() -> str:
    # Never an argument: those are seen by everybody on the machine.
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if re.search("[\ud800-\udfff]", password):  # what is no UTF-8 is read as these
        raise click.ClickException("password: must be in UTF-8")
    return password


# -- Tokens ----------------------------------------------------------------------------


@tokens_cli.command("revoke")
@click.argument("user", required=False)
@click.option("--all", "everybody", is_flag=True, help="Everybody's, as after a theft.")
def revoke_tokens(user: str | None, *, everybody: bool) -> None:
    """End the token of USER, or of everybody: who had one logs in again."""
    if everybody == (user is not None):
        raise click.UsageError("name a user, or say --all")
    user_id = None if user is None else _find(user).id
    take_time(db.session.connection())
    count = User.revoke_tokens(user_id)
    db.session.commit()
    audit.record(Event.TOKEN_REVOKED, user_id)
    click.echo(f"{count} token{'' if count == 1 else 's'} ended")


# -- Fake ------------------------------------------------------------------------------


def _fill(make: Callable[[int], Iterator[int]], count: int, *, yes: bool) -> None:
    url = db.engine.url
    if not yes and not fake.is_local(url):
        raise click.UsageError(f"{url} is not on this machine; repeat with --yes if you mean it")
    with click.progressbar(length=count) as bar:
        try:
            for size in make(count):
                bar.update(size)
        except fake.NoUsersError:
            text = "there is nobody to write posts; make users with `flask fake users`"
            raise click.ClickException(text) from None


_count = click.argument("count", type=click.IntRange(min=1))
_yes = click.option("--yes", is_flag=True, help="Also in a database on another machine.")


@fake_cli.command("users")
@_count
@_yes
def fake_users(count: int, *, yes: bool) -> None:
    """Make COUNT users. They have no password: nobody can log in as one of them."""
    _fill(fake.make_users, count, yes=yes)


@fake_cli.command("posts")
@_count
@_yes
def fake_posts(count: int, *, yes: bool) -> None:
    """Make COUNT posts, by users drawn at random."""
    _fill(fake.make_posts, count, yes=yes)


def init_app(app: APIFlask) -> None:
    for group in (users_cli, tokens_cli, fake_cli):
        app.cli.add_command(group)
