"""Three ways to know how many posts a user has: what a write costs, and what a read.

    python -m benchmarks.counts [--database postgresql://...] [--sizes 1000 1000000]

Without a database, on a SQLite file. On PostgreSQL, in a schema of its own.

- stored: the writer adds 1 to the column of the author, in the same transaction.
- trigger: a trigger of the database does, for each row.
- bounded: nobody does; a reader counts the rows of the index, up to a bound.

Ten authors share the given number of posts; one of them, who is hot, has nine tenths. The
schema is that of the application. Prints medians of the rounds.
"""

import argparse
import secrets
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import flask_migrate
import sqlalchemy as sa

from app import create_app, db
from app.extensions import remove_timeout
from app.models import recount
from config import Config
from config_parsers import database_uri

ROUNDS, WRITES, WRITERS, BULK = 9, 200, 8, 5_000
READS, LEAST_READS, READ_SECONDS = 200, 3, 5
HOT, AUTHORS = 1, 10
BOUNDS = (1_000, 10_000, None)
INSERT = "INSERT INTO post (body, timestamp, user_id) VALUES ('Hello', '2026-01-01', :id)"
ADD = 'UPDATE "user" SET post_count = post_count + 1 WHERE id = :id'
TRIGGER = {
    "sqlite": [
        (
            "CREATE TRIGGER count_posts AFTER INSERT ON post BEGIN "
            'UPDATE "user" SET post_count = post_count + 1 WHERE id = NEW.user_id; END'
        )
    ],
    "postgresql": [
        (
            "CREATE FUNCTION count_posts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            'UPDATE "user" SET post_count = post_count + 1 WHERE id = NEW.user_id; '
            "RETURN NULL; END $$"
        ),
        (
            "CREATE TRIGGER count_posts AFTER INSERT ON post "
            "FOR EACH ROW EXECUTE FUNCTION count_posts()"
        ),
    ],
}
DROP = {
    "sqlite": ["DROP TRIGGER count_posts"],
    "postgresql": ["DROP TRIGGER count_posts ON post", "DROP FUNCTION count_posts"],
}
SERIES = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "
    "SELECT i FROM n)",
    "postgresql": "generate_series(1, {}) AS n(i)",
}


def execute(*statements, **values):
    with db.engine.begin() as connection:
        remove_timeout(connection)
        for statement in statements:
            connection.execute(sa.text(statement), values)


def fill(size):
    """Write `size` posts, nine tenths of them by the hot author."""
    series = SERIES[db.engine.dialect.name]
    users = series.format(AUTHORS)
    execute(
        f"INSERT INTO \"user\" (id, username, email) SELECT i, i || '', i || '' FROM {users}",
        "INSERT INTO post (body, timestamp, user_id) SELECT 'Hello', '2026-01-01', "
        f"CASE WHEN i % 10 = 0 THEN 2 + i / 10 % 9 ELSE {HOT} END FROM {series.format(size)}",
    )
    recount()
    if db.engine.dialect.name == "postgresql":
        with db.engine.connect() as connection:
            driver = connection.execution_options(isolation_level="AUTOCOMMIT")
            remove_timeout(driver)
            driver.execute(sa.text("VACUUM ANALYZE"))
    else:
        execute("ANALYZE")


def writes(count, author, *statements):
    for _ in range(count):
        execute(*statements, id=author)


def seconds(call, *args):
    start = time.perf_counter()
    call(*args)
    return time.perf_counter() - start


def writers_at_once(*statements):
    contexts = [copy_context() for _ in range(WRITERS)]  # with the application
    with ThreadPoolExecutor(WRITERS) as pool:
        calls = [
            pool.submit(context.run, writes, WRITES // WRITERS, HOT, *statements)
            for context in contexts
        ]
    for call in calls:
        call.result()


def bulk(*statements):
    """Write many posts of one author in one statement."""
    series = SERIES[db.engine.dialect.name].format(BULK)
    rows = f"SELECT 'Hello', '2026-01-01', {HOT} FROM {series}"
    execute(f"INSERT INTO post (body, timestamp, user_id) {rows}", *statements, id=HOT)


def measure_writes(way, statements):
    dialect = db.engine.dialect.name
    if way == "trigger":
        execute(*TRIGGER[dialect])
    lone = [seconds(writes, WRITES, HOT, *statements) / WRITES for _ in range(ROUNDS)]
    shared = [WRITES / seconds(writers_at_once, *statements) for _ in range(ROUNDS)]
    many = [seconds(bulk, *statements[1:]) for _ in range(ROUNDS)]
    if way == "trigger":
        execute(*DROP[dialect])
    print(
        f"{way:10} {statistics.median(lone) * 1e6:10.0f} µs a post"
        f"{statistics.median(shared):10.0f} posts/s of {WRITERS} writers"
        f"{statistics.median(many) * 1e3:10.0f} ms for {BULK} posts in one statement"
    )


def measure_reads():
    stored = sa.text('SELECT id, post_count FROM "user" ORDER BY id LIMIT 10')
    print(f"{'stored':20} {read(stored):10.0f} µs a page of 10 users")
    for bound in BOUNDS:
        limit = "" if bound is None else f"LIMIT {bound}"
        rows = f'SELECT 1 FROM post WHERE user_id = "user".id {limit}'
        count = f"(SELECT count(*) FROM ({rows}) AS counted)"
        query = sa.text(f'SELECT id, {count} FROM "user" ORDER BY id LIMIT 10')
        name = f"bounded by {bound}" if bound else "counted"
        print(f"{name:20} {read(query):10.0f} µs a page of 10 users")


def read(query):
    times = []
    with db.engine.connect() as connection:
        remove_timeout(connection)
        end = time.monotonic() + READ_SECONDS
        while len(times) < READS and (len(times) < LEAST_READS or time.monotonic() < end):
            times.append(seconds(lambda: connection.execute(query).all()))
    return statistics.median(times) * 1e6


def run(url, size):
    class BenchmarkConfig(Config):
        SQLALCHEMY_DATABASE_URI = url
        SECRET_KEY = "of no use anywhere else"

    with create_app(BenchmarkConfig).app_context():
        flask_migrate.upgrade()
        fill(size)
        print(f"\n{db.engine.dialect.name}, {size:,} posts")
        measure_reads()
        measure_writes("stored", [INSERT, ADD])
        measure_writes("trigger", [INSERT])
        measure_writes("bounded", [INSERT])
        print(f"recount: {seconds(recount):.2f} s")
        db.engine.dispose()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 1_000_000])
    options = parser.parse_args()
    for size in options.sizes:
        if options.database is None:
            with tempfile.TemporaryDirectory() as folder:
                run(f"sqlite:///{folder}/app.db", size)
            continue
        schema = f"benchmark_{secrets.token_hex(4)}"
        engine = sa.create_engine(database_uri(options.database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
            url = engine.url.update_query_dict({"options": f"-csearch_path={schema}"})
            try:
                run(url.render_as_string(hide_password=False), size)
            finally:
                connection.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))


if __name__ == "__main__":
    main()
