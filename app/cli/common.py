"""What several commands need: a user by name, and texts for a terminal."""

import click
from marshmallow import ValidationError

from app.models import User

login = click.argument("user")


def find_user(login: str) -> User:
    user = User.find_even_deactivated(login)
    if user is None:
        raise click.ClickException(f"nobody has the user name or e-mail address {login!r}")
    return user


def printable(text: str) -> str:
    """`text`, without what a terminal would obey; an older database may hold any name."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def refusal_of(error: ValidationError) -> click.ClickException:
    """What a schema has refused, a line for each field."""
    lines = [f"{name}: {' '.join(texts)}" for name, texts in error.messages_dict.items()]
    return click.ClickException("\n".join(lines))
