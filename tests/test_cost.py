"""What a request costs the database: how many statements, and over which index."""

import re

import pytest
import sqlalchemy as sa

from app import db
from tests.helpers import PASSWORD, basic, bearer

# Method, path, and the statements it takes; the first is always the check of the token.
COSTS = [
    ("GET", "/api/users?per_page={count}", 3),  # the total, the page
    ("GET", "/api/users/{me}/followers?per_page={count}", 2),  # and, of another user, the user
    ("GET", "/api/users/{me}/following?per_page={count}", 2),
    ("GET", "/api/users/{other}/followers?per_page={count}", 3),
    ("GET", "/api/posts?per_page={count}", 2),
    ("GET", "/api/users/{me}/posts?per_page={count}", 2),
    ("GET", "/api/users/{other}/posts?per_page={count}", 3),
    ("GET", "/api/feed?per_page={count}", 2),
    ("GET", "/api/users/me", 1),
    ("GET", "/api/users/{me}", 1),
    ("GET", "/api/users/{other}", 2),
    ("GET", "/api/posts/{post}", 2),
    ("GET", "/api/tokens", 1),
]


@pytest.fixture
def crowd(app, client, register, log_in):
    """Alice, and twenty who follow her and whom she follows, with three posts each.

    Gives her headers, and what puts ids into a path.
    """
    ids = [register("alice"), *(register(f"user{number}") for number in range(20))]
    stranger = register("stranger")
    headers = bearer(log_in("alice"))
    for number, id in enumerate(ids[1:]):
        client.put(f"/api/users/me/following/{id}", headers=headers)
        client.put(f"/api/users/me/following/{ids[0]}", headers=basic(f"user{number}"))
    for _ in range(3):
        for name in (*(f"user{number}" for number in range(20)), "alice"):
            post = client.post("/api/posts", json={"body": "Hello"}, headers=basic(name)).json

    def real(path, count=10):
        return path.format(me=ids[0], other=ids[1], stranger=stranger, post=post["id"], count=count)

    return headers, real


@pytest.mark.parametrize(("method", "path", "cost"), COSTS)
def test_a_route_takes_the_same_statements_whatever_the_page_holds(
    client, crowd, statements, method, path, cost
):
    headers, real = crowd
    for per_page in (1, 5, 100):
        statements.clear()
        response = client.open(real(path, per_page), method=method, headers=headers)
        assert response.status_code == 200
        assert len(statements) == cost, statements


@pytest.mark.parametrize(
    ("method", "path", "body", "cost"),
    [
        ("POST", "/api/posts", {"body": "x"}, 3),  # the post, the count
        ("PUT", "/api/posts/{post}", {"body": "x"}, 3),  # the post, the change
        ("DELETE", "/api/tokens", None, 2),
        ("DELETE", "/api/posts/{post}", None, 4),  # the post, its end, the count
        ("PUT", "/api/users/{me}", {"about_me": "x"}, 2),
        ("POST", "/api/users", {"username": "x", "email": "x@x.com", "password": PASSWORD}, 2),
        ("PUT", "/api/users/me/following/{other}", None, 3),  # the user, and that it is so already
        ("PUT", "/api/users/me/following/{stranger}", None, 5),  # the user, the row, two counts
        ("DELETE", "/api/users/me/following/{other}", None, 5),
    ],
)
def test_a_change_takes_so_many_statements(client, crowd, statements, method, path, body, cost):
    headers, real = crowd
    statements.clear()
    response = client.open(real(path), method=method, json=body, headers=headers)
    assert response.status_code in (200, 201, 204)
    assert len(statements) == cost, statements


@pytest.fixture
def plans(app):
    """The plan of each statement that is executed, as the database tells it."""
    seen = []
    with app.app_context():
        engine = db.engine
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "

    def record(_connection, cursor, statement, parameters, *_):
        if statement.startswith("SELECT"):
            cursor.execute(explain + statement, parameters)
            seen.append((statement, "\n".join(str(row[-1]) for row in cursor.fetchall())))

    def forbid_scans(connection, *_):
        # So few rows are read faster than an index; what matters is that one is there.
        connection.execute("SET enable_seqscan = off")
        connection.commit()

    if engine.dialect.name == "postgresql":
        engine.dispose()
        sa.event.listen(engine, "connect", forbid_scans)
    sa.event.listen(engine, "before_cursor_execute", record)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", record)
    if engine.dialect.name == "postgresql":
        sa.event.remove(engine, "connect", forbid_scans)
        engine.dispose()


def is_full_scan(statement, plan):
    # SQLite's SCAN walks a table; a page of all users does so by its primary
    # key, and stops at its end.
    walks = re.search(r"^SCAN (user|post|followers)", plan, re.MULTILINE)
    # PostgreSQL's Index Scan without an Index Cond walks all of the index.
    walks = walks or re.search(
        r"Index (?:Only )?Scan (?:Backward )?using \S+ on \S+.*\n(?!\s*Index Cond)", plan + "\n"
    )
    page = r'FROM "?user"?\s+WHERE "?user"?.deactivated_at IS NULL ORDER BY "?user"?.id\s+LIMIT'
    return "Seq Scan on" in plan or (walks and not re.search(page, statement))


def test_no_route_reads_a_whole_table(client, crowd, plans):
    headers, real = crowd
    for _, path, _ in COSTS:
        client.get(real(path), headers=headers)
    client.post("/api/tokens", auth=("alice", PASSWORD))
    client.post("/api/tokens", auth=("alice@example.com", PASSWORD))
    assert len(plans) > len(COSTS)
    for statement, plan in plans:
        assert not is_full_scan(statement, plan), f"{statement}\n{plan}"


@pytest.mark.parametrize("path", ["/api/feed?per_page=2", "/api/users/{other}/posts?per_page=2"])
def test_the_newest_posts_of_an_author_are_found_by_index(client, crowd, plans, path):
    headers, real = crowd
    client.get(real(path), headers=headers)
    plan = plans[-1][1]
    assert "ix_post_user_id" in plan, plan
