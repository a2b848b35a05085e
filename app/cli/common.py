"""Shared by the commands: errors in one line, and finding a user by name."""

import errno
from typing import Any

import click
import psycopg
import sqlalchemy as sa
from flask.cli import AppGroup
from marshmallow import ValidationError

from app.http.errors import is_unavailable
from app.models import User

login = click.argument("user")


class DatabaseCommand(click.Command):
    """A command that says in one line that the database, input or output cannot be used."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.filename is not None or error.errno == errno.EPIPE:  # Click ends with that
                raise
            text = f"cannot read or write: {error.strerror or error}; a change may have been made"
            raise click.ClickException(text) from None
        except sa.exc.SQLAlchemyError as error:
            reason = str(error.__cause__ or error)
            if _lacks_a_table(error):
                lacking = reason.splitlines()[0]
                text = f"the database has no tables ({lacking}); run `flask db upgrade`"
            elif is_unavailable(error) or _is_forbidden(error):
                text = f"cannot use the database: {' '.join(reason.split())}"
            else:
                raise
            raise click.ClickException(text) from None


class DatabaseGroup(DatabaseCommand, AppGroup):
    """A group of such commands."""


def _lacks_a_table(error: sa.exc.SQLAlchemyError) -> bool:
    """Return whether a statement names a table or a column that does not exist."""
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    if isinstance(error.orig, psycopg.Error):
        return isinstance(
            error.orig, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn
        )
    return "no such table" in str(error.orig) or "no such column" in str(error.orig)


def _is_forbidden(error: sa.exc.SQLAlchemyError) -> bool:
    """Return whether the role of the database lacks a privilege."""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(
        error.orig, psycopg.errors.InsufficientPrivilege
    )


def find_user(login: str) -> User:
    user = User.find_by_login(login, also_deactivated=True)
    if user is None:
        raise click.ClickException(f"no user has the user name or e-mail address {login!r}")
    return user


def refusal_of(error: ValidationError) -> click.ClickException:
    """Return the error for what a schema has refused, a line for each field."""
    lines = [f"{name}: {' '.join(texts)}" for name, texts in error.messages_dict.items()]
    return click.ClickException("\n".join(lines))
