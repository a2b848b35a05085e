"""Posts and following: number of SQL statements, and use of indexes."""

import pytest

from tests.conftest import is_full_scan
from tests.helpers import basic, bearer

pytestmark = pytest.mark.slow  # each has a crowd of users

# The path, and the statements it takes; the first is always the check of the token.
COSTS = [
    ("/api/users/{other}/followers?per_page={count}", 3),
    ("/api/users/{other}/following?per_page={count}", 3),
    ("/api/posts?per_page={count}", 2),
    ("/api/users/{other}/posts?per_page={count}", 3),
    ("/api/feed?per_page={count}", 2),
    ("/api/posts/{post}", 2),
]


@pytest.fixture
def crowd(client, register, log_in):
    """Alice and 20 users who follow her and whom she follows, with three posts each.

    Return her headers, and a function that puts ids into a path.
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


@pytest.mark.parametrize(("path", "cost"), COSTS)
def test_a_list_takes_the_same_statements_whatever_it_holds(client, crowd, statements, path, cost):
    headers, real = crowd
    for per_page in (1, 5, 100):
        statements.clear()
        assert client.get(real(path, per_page), headers=headers).status_code == 200
        assert len(statements) == cost, statements


@pytest.mark.parametrize(
    ("method", "path", "body", "cost"),
    [
        ("POST", "/api/posts", {"body": "x"}, 4),  # second check, the post, the count
        ("PUT", "/api/posts/{post}", {"body": "x"}, 4),  # the post, second check, the change
        ("DELETE", "/api/posts/{post}", None, 5),  # the post, second check, deletion, count
        ("PUT", "/api/users/me/following/{other}", None, 4),  # user, second check, existing row
        ("PUT", "/api/users/me/following/{stranger}", None, 6),  # and two counts
        ("DELETE", "/api/users/me/following/{other}", None, 6),
    ],
)
def test_a_write_takes_a_fixed_number_of_statements_with_the_second_credential_check(
    client, crowd, statements, method, path, body, cost
):
    headers, real = crowd
    statements.clear()
    response = client.open(real(path), method=method, json=body, headers=headers)
    assert response.status_code in (200, 201, 204)
    locks = [statement for statement in statements if statement.startswith("LOCK TABLE")]
    assert len(statements) - len(locks) == cost, statements
    assert len(locks) <= path.startswith("/api/users/me/following")


@pytest.mark.parametrize(("path", "cost"), COSTS)
def test_a_list_makes_a_round_trip_for_each_select(crowd, round_trips, path, cost):
    headers, real = crowd
    assert round_trips("GET", real(path), headers=headers) == cost


def test_a_new_post_makes_a_round_trip_for_each_statement_and_begin_and_commit(crowd, round_trips):
    headers, _ = crowd
    # The check, BEGIN, the lock of the user, the second check, the post, the count, COMMIT.
    assert round_trips("POST", "/api/posts", headers=headers, json={"body": "x"}) == 7


def test_no_list_reads_a_whole_table(client, crowd, plans):
    headers, real = crowd
    for path, _ in COSTS:
        client.get(real(path), headers=headers)
    assert len(plans) > len(COSTS)
    for statement, plan in plans:
        assert not is_full_scan(statement, plan), f"{statement}\n{plan}"


@pytest.mark.parametrize("path", ["/api/feed?per_page=2", "/api/users/{other}/posts?per_page=2"])
def test_the_newest_posts_of_an_author_are_found_by_index(client, crowd, plans, path):
    headers, real = crowd
    client.get(real(path), headers=headers)
    plan = plans[-1][1]
    assert "ix_post_user_id" in plan, plan


def test_the_feed_reads_whole_posts_only_of_its_page(client, crowd, plans, config_class):
    if not config_class.SQLALCHEMY_DATABASE_URI.startswith("sqlite"):
        pytest.skip("PostgreSQL's planner decides by the size of the tables")
    headers, _ = crowd
    assert client.get("/api/feed", headers=headers).status_code == 200
    (plan,) = (plan for statement, plan in plans if "authors" in statement)
    assert plan.count("USING COVERING INDEX ix_post_user_id") == 2
    assert plan.count("post USING INTEGER PRIMARY KEY") == 1
