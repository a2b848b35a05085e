"""`flask fake`: made-up users, to try the application with many of them."""

import os
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click
import sqlalchemy as sa

from app.cli.common import DatabaseGroup
from app.extensions import db
from app.models import Total, User

if TYPE_CHECKING:
    from faker import Faker

group = DatabaseGroup("fake", help="Fill the database with made-up rows.")
count = click.argument("count", type=click.IntRange(min=1))
yes = click.option("--yes", is_flag=True, help="Allow a database on another machine.")

BATCH = 10_000  # rows that are committed together


@group.command("users")
@count
@yes
def fake_users(count: int, *, yes: bool) -> None:
    """Make COUNT users. They have no password, so nobody can log in as one of them."""
    fill(make_users, count, yes=yes)


def fill(make: Callable[[int], Iterator[int]], count: int, *, yes: bool) -> None:
    """Make rows and show the progress; refuse a database on another machine without `--yes`."""
    url = db.engine.url
    if not yes and not is_local(url):
        raise click.UsageError(f"{url} is not on this machine; repeat with --yes if you mean it")
    with click.progressbar(length=count) as bar:
        for size in make(count):
            bar.update(size)


def is_local(url: sa.URL) -> bool:
    """Return whether the database is a file, or served by this machine."""
    if url.get_backend_name() == "sqlite":
        return True
    # libpq reads the server from other places than the URL, too.
    elsewhere = {"PGHOST", "PGHOSTADDR", "PGSERVICE"} & os.environ.keys()
    if elsewhere or {"hostaddr", "service"} & url.query.keys():
        return False
    host = str(url.query.get("host", url.host or ""))
    is_socket_folder = host.startswith("/") and "," not in host
    return is_socket_folder or host in {"", "localhost", "127.0.0.1", "::1"}


def make_users(count: int) -> Iterator[int]:
    """Make users without a password, which nobody can log in as; yield the size of each batch."""
    faker = new_faker()
    names = [faker.user_name()[:40] for _ in range(2_000)]
    texts = [faker.sentence(nb_words=8)[:140] for _ in range(2_000)]
    for size in batches(count):
        first = (db.session.scalar(sa.select(sa.func.max(User.id))) or 0) + 1
        rows = []
        for number in range(first, first + size):
            name = f"{random.choice(names)}.{number}"
            rows.append(
                {
                    "username": name,
                    "email": f"{name}@example.com",
                    "about_me": random.choice(texts),
                }
            )
        db.session.execute(sa.insert(User), rows)
        db.session.execute(Total.addition("user", size))
        db.session.commit()
        yield size


def new_faker() -> "Faker":
    """Return a source of made-up names and texts."""
    from faker import Faker  # noqa: PLC0415  a server, which never needs it, would load it too

    return Faker()


def batches(count: int) -> Iterator[int]:
    """Yield batch sizes that add up to `count`."""
    while count > 0:
        size = min(count, BATCH)
        yield size
        count -= size
