"""How the cost of a request grows with the number of users: CPU time on SQLite.

    pip install matplotlib
    python -m benchmarks.growth [--sizes 1000 100000 1000000] [--plot docs/growth.png]

Makes a database for each size, with five posts for each user, and 1,000 users
who follow 50 others each. Then sends requests of those 1,000 to the application
in this process, in turns over the sizes, and prints the median of the rounds, in
microseconds of CPU time, and the ratio of the largest size to the smallest.
"""

import argparse
import base64
import logging
import random
import statistics
import tempfile
import time
from io import BytesIO
from pathlib import Path

import flask_migrate
import sqlalchemy as sa

from app import create_app, db
from app.auth.credential import find_credential
from app.cli import fake, fake_posts
from app.models import Follow, User, recount
from config import Config

PASSWORD = "correct horse"
FOLLOWERS, FOLLOWED = 1_000, 50
ROUNDS, REQUESTS = 9, 300
CHECK = "bearer check"
ROUTES = [
    CHECK,
    "GET /api/tokens",
    "GET /api/users/me",
    "GET /api/users",
    "GET /api/users/<id>",
    "GET /api/users/<id>/followers",
    "GET /api/users/<id>/following",
    "GET /api/posts",
    "GET /api/posts/<id>",
    "GET /api/users/<id>/posts",
    "GET /api/feed",
    "POST /api/tokens",
    "POST /api/posts",
    "PUT /api/users/me/following/<id>",
]
COUNT = "SELECT count(*)"  # what total_items would cost, were it counted


def make_app(size, folder):
    """An application on a database of `size` users, and who asks it about whom.

    Gives it with the credentials of those who follow others, and the ids of those who
    have followers and who follow, by the last part of the route that shows them.
    """

    class BenchmarkConfig(Config):
        SQLALCHEMY_DATABASE_URI = f"sqlite:///{folder}/{size}.db"
        SECRET_KEY = "of no use anywhere else"
        # Hashing costs the same whatever the size: as little of it as there can be.
        ARGON2_MEMORY_KIB, ARGON2_TIME_COST = 8, 1

    app = create_app(BenchmarkConfig)
    with app.app_context():
        flask_migrate.upgrade()
        if not User.page(1, 1).total:
            fill(size)
        users = list(db.session.scalars(sa.select(User).order_by(User.id).limit(FOLLOWERS)))
        users[0].set_password(PASSWORD)
        for user in users:
            user.password_hash = users[0].password_hash
        credentials = [(user.get_token(expires_in=86_400), basic(user)) for user in users]
        db.session.commit()
        popular = list(db.session.scalars(sa.select(Follow.followed_id).distinct()))
    return app, credentials, {"followers": popular, "following": [user.id for user in users]}


def fill(size):
    for _ in fake.make_users(size):
        pass
    for _ in fake_posts.make_posts(5 * size):
        pass
    ids = list(db.session.scalars(sa.select(User.id).order_by(User.id)))
    # From all over the table, and as many as follow, so that each has as many followers
    # whatever the size.
    popular = random.sample(ids, FOLLOWERS)
    pairs = [
        (follower, followed)
        for follower in ids[:FOLLOWERS]
        for followed in random.sample(popular, FOLLOWED)
        if followed != follower
    ]
    rows = [{"follower_id": a, "followed_id": b} for a, b in pairs]
    db.session.execute(sa.insert(Follow), rows)
    recount()


def basic(user):
    return base64.b64encode(f"{user.username}:{PASSWORD}".encode()).decode()


def microseconds(app, route, size, credentials, ids):
    """CPU time of one request, over `REQUESTS` requests of users drawn at random."""
    drawn = random.choices(credentials, k=REQUESTS)
    if route == COUNT:
        drawn = drawn[: max(3, 3_000_000 // size // 100)]

    def run(token, password):
        if route in (CHECK, COUNT):
            with app.app_context():
                if route == CHECK:
                    assert find_credential(token)
                else:
                    db.session.scalar(sa.text('SELECT count(*) FROM "user"'))
            return
        method, _, path = route.partition(" ")
        number = random.choice(ids.get(path.rpartition("/")[2], range(1, size + 1)))
        body = b'{"body": "Hello"}' if path == "/api/posts" else b""
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path.replace("<id>", str(number)),
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(body),
            "HTTP_AUTHORIZATION": f"Basic {password}"
            if route == "POST /api/tokens"
            else f"Bearer {token}",
        }
        statuses = []
        b"".join(app(environ, lambda status, *_: statuses.append(status)))
        # 400: of a thousand users at random, one has met themselves.
        assert statuses[0][:3] in ("200", "201", "204", "400"), (route, statuses)

    start = time.process_time()
    for token, password in drawn:
        run(token, password)
    return (time.process_time() - start) / len(drawn) * 1e6


def measure(apps):
    """`{route: {size: microseconds}}`, the median of the rounds."""
    figures = {route: {size: [] for size in apps} for route in (*ROUTES, COUNT)}
    for round_ in range(ROUNDS + 1):
        for route, by_size in figures.items():
            for size, (app, credentials, ids) in apps.items():
                value = microseconds(app, route, size, credentials, ids)
                if round_:  # the first warms caches up
                    by_size[size].append(value)
    return {
        route: {size: statistics.median(values) for size, values in by_size.items()}
        for route, by_size in figures.items()
    }


def print_table(figures, sizes):
    print(
        f"{'CPU us per request, users:':31}"
        + "".join(f"{size:>12,}" for size in sizes)
        + "   growth"
    )
    for route, by_size in figures.items():
        row = "".join(f"{by_size[size]:12,.0f}" for size in sizes)
        print(f"{route:31}{row}{by_size[sizes[-1]] / by_size[sizes[0]]:9.2f}")


def draw(figures, sizes, path):
    import matplotlib.pyplot as plt  # noqa: PLC0415  needed by nothing else

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    axes.set_prop_cycle(color=plt.get_cmap("tab20").colors)
    for route in ROUTES:
        axes.plot(sizes, [figures[route][size] for size in sizes], marker="o", label=route)
    axes.set(
        xscale="log",
        xlabel="users, with five posts each",
        ylabel="CPU time of a request, microseconds",
        title="What a request costs as the database grows (SQLite)",
        ylim=(0, None),
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="keeps the databases, for another run")
    parser.add_argument("--plot", type=Path, help="where to draw the table, as PNG")
    options = parser.parse_args()
    logging.getLogger("microblog_api.audit").disabled = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        apps = {size: make_app(size, folder) for size in sorted(options.sizes)}
        figures = measure(apps)
    print_table(figures, list(apps))
    if options.plot:
        draw(figures, list(apps), options.plot)


if __name__ == "__main__":
    main()
