"""The commands `flask users`, `flask tokens` and `flask fake`: what an owner does by hand."""

from apiflask import APIFlask

from app.cli import fill, tokens, users


def init_app(app: APIFlask) -> None:
    for module in (users, tokens, fill):
        app.cli.add_command(module.group)
