"""Whether the time of an answer tells who exists.

    python -m benchmarks.equal_cost [rounds]

Sends `rounds` (1,000 by default) requests about a user and as many about nobody, in
turns: log ins with a wrong password, and requests for a link to set a new one. To the
application in this process, on SQLite and with the default parameters of the hash. Prints
both medians and the Mann-Whitney U test: p is the probability of a difference like this, or
a larger one, between times that are drawn from the same distribution.
"""

import logging
import math
import statistics
import sys
import tempfile
import time

import flask_migrate

from app import create_app, db
from config import Config

WRONG = "not the password"
NAMES = ("alice", "nobody")


def mann_whitney_p(first, second):
    """The two-sided p of the U test, in its normal approximation; times have no ties."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    rank_sum = sum(rank for rank, (_, sample) in enumerate(ranked, start=1) if sample == 0)
    n, m = len(first), len(second)
    u = rank_sum - n * (n + 1) / 2
    z = (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(z) / math.sqrt(2))


def measured(rounds, ask):
    """Return the milliseconds of `ask(name)` for each of `NAMES`."""
    milliseconds = {name: [] for name in NAMES}
    for number in range(rounds * 2):
        # Neither is always the second of two.
        name = NAMES[(number + number // 2) % 2]
        start = time.perf_counter()
        ask(name)
        milliseconds[name].append((time.perf_counter() - start) * 1000)
    return milliseconds.values()


def main():
    logging.getLogger("microblog_api.audit").disabled = True
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:

        class BenchmarkConfig(Config):
            SQLALCHEMY_DATABASE_URI = f"sqlite:///{folder}/app.db"
            SECRET_KEY = "of no use anywhere else"
            LOGIN_LIMIT_PER_SOURCE = LOGIN_LIMIT_PER_ACCOUNT = "1000000 per hour"
            LOGIN_LIMIT_PER_ADDRESS = "1000000 per hour"
            MAIL_LIMIT_PER_SOURCE = MAIL_LIMIT_PER_RECIPIENT = "1000000 per hour"
            MAIL_SENT_BY = "command"

        app = create_app(BenchmarkConfig)
        with app.app_context():
            flask_migrate.upgrade()
        client = app.test_client()
        body = {"username": "alice", "email": "alice@example.com", "password": "correct horse"}
        client.post("/api/users", json=body)
        asks = {
            "wrong password": lambda name: client.post("/api/tokens", auth=(name, WRONG)),
            "forgotten password": lambda name: client.post(
                "/api/tokens/reset", json={"login": name}
            ),
        }
        for what, ask in asks.items():
            known, unknown = measured(rounds, ask)
            medians = statistics.median(known), statistics.median(unknown)
            print(f"{what}: a user {medians[0]:.3f} ms, nobody {medians[1]:.3f} ms")
            print(
                f"ratio {medians[0] / medians[1]:.4f}, "
                f"Mann-Whitney p {mann_whitney_p(known, unknown):.3f}"
            )
        with app.app_context():
            db.engine.dispose()


if __name__ == "__main__":
    main()
