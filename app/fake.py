"""Users and posts that nobody wrote, to see how the application does with many.

Each function makes rows in batches, commits each batch with the counts that
belong to it, and yields how many rows it has made.
"""

import os
import random
from collections.abc import Iterator
from datetime import timedelta

import sqlalchemy as sa
from faker import Faker

from app.columns import utc_now
from app.extensions import db
from app.models import Post, Total, User

BATCH = 10_000
POSTS_AT_ONCE = 5  # by each author that is drawn
DAYS = timedelta(days=30)


class NoUsersError(Exception):
    """There is nobody to write posts."""


def is_local(url: sa.URL) -> bool:
    """Whether the database is a file, or served by this machine."""
    if url.get_backend_name() == "sqlite":
        return True
    # libpq has more ways to name a server than its URL.
    elsewhere = {"PGHOST", "PGHOSTADDR", "PGSERVICE"} & os.environ.keys()
    if elsewhere or {"hostaddr", "service"} & url.query.keys():
        return False
    host = str(url.query.get("host", url.host or ""))
    is_socket_folder = host.startswith("/") and "," not in host
    return is_socket_folder or host in {"", "localhost", "127.0.0.1", "::1"}


def make_users(count: int) -> Iterator[int]:
    """Makes users without a password: nobody can log in as one of them."""
    faker = Faker()
    names = [faker.user_name()[:40] for _ in range(2_000)]
    texts = [faker.sentence(nb_words=8)[:140] for _ in range(2_000)]
    for size in _batches(count):
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
        db.session.execute(Total.change("user", size))
        db.session.commit()
        yield size


def make_posts(count: int) -> Iterator[int]:
    """Makes posts of the last 30 days, after the newest there is, by users drawn at random.

    Raises:
        NoUsersError: nobody is there to write them.
    """
    authors = list(db.session.scalars(sa.select(User.id)))
    if not authors:
        raise NoUsersError
    faker = Faker()
    bodies = [faker.sentence(nb_words=random.randint(3, 16))[:140] for _ in range(5_000)]
    now = utc_now()
    newest = db.session.scalar(sa.select(Post.timestamp).order_by(Post.id.desc()).limit(1))
    step = (now - max(newest or now - DAYS, now - DAYS)) / count
    made = 0
    for size in _batches(count):
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


def _batches(count: int) -> Iterator[int]:
    while count > 0:
        size = min(count, BATCH)
        yield size
        count -= size
