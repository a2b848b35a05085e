"""How long `flask move-in` takes for a large tutorial application.

    python -m benchmarks.move_in [1000000]

Makes a SQLite database of the tutorial with that many users, a tenth of them logged in, and
five posts for each; then moves it to SQLite, and to a PostgreSQL server of its own. Prints the
seconds of the first copy, and of a second one, which finds nothing to change.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta

from tests import tutorial
from tests.helpers import ROOT
from tests.services import PostgreSQL

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
HASH = f"scrypt:32768:8:1${'a' * 16}${'b' * 128}"  # as long as a real one


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("users", type=int, nargs="?", default=1_000_000)
    users = parser.parse_args().users
    with tempfile.TemporaryDirectory() as folder, PostgreSQL() as postgresql:
        fill(f"{folder}/tutorial.db", users)
        source = f"sqlite:///{folder}/tutorial.db"
        for name, target in (
            ("SQLite", f"sqlite:///{folder}/app.db"),
            ("PostgreSQL", postgresql.url),
        ):
            flask("db", "upgrade", target=target)
            seconds = [flask("move-in", source, "--copy", target=target) for _ in range(2)]
            print(f"{name}: first copy {seconds[0]:.0f} s, second {seconds[1]:.0f} s", flush=True)


def fill(path, users):
    tutorial.create_app(f"sqlite:///{path}", "2024")
    until = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%d %H:%M:%S.%f}"
    connection = sqlite3.connect(path)
    connection.execute(
        f"{NUMBERS} INSERT INTO user (id, username, email, password_hash, about_me, last_seen,"
        " token, token_expiration) SELECT i, 'user' || i, 'user' || i || '@example.com', ?,"
        " 'I am user ' || i, '2024-01-01 10:00:00.000000',"
        " CASE WHEN i % 10 = 0 THEN lower(hex(randomblob(16))) END,"
        " CASE WHEN i % 10 = 0 THEN ? END FROM n",
        (users, HASH, until),
    )
    connection.execute(
        f"{NUMBERS} INSERT INTO post (id, body, timestamp, user_id)"
        " SELECT i, 'this is the text of post ' || i, '2024-01-01 10:00:00.000000',"
        " abs(random()) % ? + 1 FROM n",
        (5 * users, users),
    )
    connection.commit()
    connection.close()


def flask(*arguments, target):
    """Run a command on a database of ours; return how many seconds it took."""
    settings = {"DATABASE_URL": target, "SECRET_KEY": "of this measurement, and of nothing else"}
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "flask", "--app", "microblog_api", *arguments],
        cwd=ROOT,
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - began


if __name__ == "__main__":
    main()
