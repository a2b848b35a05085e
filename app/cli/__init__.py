"""The commands `flask users`, `flask tokens` and `flask fake`, for the owner of the service."""

from apiflask import APIFlask

from app.cli import (
    fake,
    fake_posts,  # noqa: F401  adds its command  # microblog
    tokens,
    users,
)


def init_app(app: APIFlask) -> None:
    for module in (users, tokens, fake):
        app.cli.add_command(module.group)
