"""`flask fake`."""

from collections.abc import Callable, Iterator

import click
from flask.cli import AppGroup

from app import fake
from app.extensions import db

group = AppGroup("fake", help="Fill the database with users and posts that nobody wrote.")


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


@group.command("users")
@_count
@_yes
def fake_users(count: int, *, yes: bool) -> None:
    """Make COUNT users. They have no password: nobody can log in as one of them."""
    _fill(fake.make_users, count, yes=yes)


@group.command("posts")
@_count
@_yes
def fake_posts(count: int, *, yes: bool) -> None:
    """Make COUNT posts, by users drawn at random."""
    _fill(fake.make_posts, count, yes=yes)
