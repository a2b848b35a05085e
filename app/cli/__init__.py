"""The commands for the owner of the service: `flask users`, `flask tokens` and others."""

from apiflask import APIFlask

from app.cli import (
    database,
    fake,
    fake_posts,  # noqa: F401  adds its command  # microblog
    mail,
    move_in,
    tokens,
    users,
)


def init_app(app: APIFlask) -> None:
    for module in (users, tokens, mail, fake):
        app.cli.add_command(module.group)
    for command in (database.backup, database.restore, move_in.command):
        app.cli.add_command(command)
