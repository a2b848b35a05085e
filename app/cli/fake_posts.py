"""`flask fake posts`: made-up posts."""

import random
from collections.abc import Iterator
from datetime import timedelta

import click
import sqlalchemy as sa

from app.cli import fake
from app.cli.fake import batches, new_faker
from app.clock import utc_now
from app.extensions import db
from app.models import Post, User

POSTS_AT_ONCE = 5  # by each random author
DAYS = timedelta(days=30)


class NoUsersError(Exception):
    """There are no users to write posts."""


@fake.group.command("posts")
@fake.count
@fake.yes
def fake_posts(count: int, *, yes: bool) -> None:
    """Make COUNT posts by random users."""
    try:
        fake.fill(make_posts, count, yes=yes)
    except NoUsersError:
        text = "there are no users to write posts; make some with `flask fake users`"
        raise click.ClickException(text) from None


def make_posts(count: int) -> Iterator[int]:
    """Make posts of the last 30 days, later than all others, by random users.

    Yields the size of each batch.

    Raises:
        NoUsersError: there are no users.
    """
    authors = list(db.session.scalars(sa.select(User.id)))
    if not authors:
        raise NoUsersError
    faker = new_faker()
    bodies = [faker.sentence(nb_words=random.randint(3, 16))[:140] for _ in range(5_000)]
    now = utc_now()
    newest = db.session.scalar(sa.select(Post.timestamp).order_by(Post.id.desc()).limit(1))
    step = (now - max(newest or now - DAYS, now - DAYS)) / count
    made = 0
    for size in batches(count):
        drawn = [random.choice(authors) for _ in range(-(-size // POSTS_AT_ONCE))]
        writers = (drawn * POSTS_AT_ONCE)[:size]
        rows = [
            {
                "user_id": user_id,
                "body": random.choice(bodies),
                "timestamp": now - step * (count - made - number - 1),
            }
            for number, user_id in enumerate(writers)
        ]
        db.session.execute(sa.insert(Post), rows)
        _count_posts(writers)
        db.session.commit()
        made += size
        yield size


def _count_posts(writers: list[int]) -> None:
    written: dict[int, int] = {}
    for user_id in writers:
        written[user_id] = written.get(user_id, 0) + 1
    by_number: dict[int, list[int]] = {}
    for user_id, number in written.items():
        by_number.setdefault(number, []).append(user_id)
    for number, ids in by_number.items():
        values = {User.post_count: User.post_count + number}
        db.session.execute(sa.update(User).where(User.id.in_(ids)).values(values))
