"""The cost of a request in the database: number of statements, and use of indexes."""

import cProfile

import pytest
from werkzeug.test import EnvironBuilder

from app import create_app, db
from app.auth import any_auth, current_credential, public
from tests.conftest import is_full_scan
from tests.helpers import PASSWORD, bearer

# Method, path, number of statements; the first statement always checks the token.
COSTS = [
    ("GET", "/api/users?per_page={count}", 3),  # the total, the page
    ("GET", "/api/users/me", 1),
    ("GET", "/api/users/{other}", 2),
    ("GET", "/api/tokens", 1),
]


@pytest.fixture
def crowd(client, register, log_in):
    """Alice and twenty others. Gives her headers, and what puts ids into a path."""
    ids = [register("alice"), *(register(f"user{number}") for number in range(20))]

    def real(path, count=10):
        return path.format(me=ids[0], other=ids[1], count=count)

    return bearer(log_in("alice")), real


@pytest.mark.parametrize(("method", "path", "cost"), COSTS)
def test_the_number_of_statements_does_not_depend_on_the_page_size(
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
        ("DELETE", "/api/tokens", None, 3),
        ("PUT", "/api/users/{me}", {"about_me": "x"}, 3),
        ("POST", "/api/users", {"username": "x", "email": "x@x.com", "password": PASSWORD}, 4),
    ],
)
def test_a_write_takes_a_fixed_number_of_statements_with_the_second_credential_check(
    client, crowd, statements, method, path, body, cost
):
    headers, real = crowd
    statements.clear()
    response = client.open(real(path), method=method, json=body, headers=headers)
    assert response.status_code in (200, 201, 204)
    assert len(statements) == cost, statements


@pytest.mark.parametrize(("method", "path", "cost"), COSTS)
def test_a_safe_method_makes_a_round_trip_for_each_select(crowd, round_trips, method, path, cost):
    headers, real = crowd
    assert round_trips(method, real(path), headers=headers) == cost


def test_a_write_makes_a_round_trip_for_each_statement_and_begin_and_commit(crowd, round_trips):
    headers, _ = crowd
    # The check, BEGIN, the lock of the user, the second check, the UPDATE, COMMIT.
    assert round_trips("PUT", "/api/tokens", headers=headers) == 6


def test_a_token_costs_no_more_function_calls_than_it_did(config_class, crowd):
    app = create_app(config_class)

    @app.get("/open")
    @public
    def read_nothing():
        return {"id": 1}

    @app.get("/id")
    @any_auth.login_required(role="read")
    def read_id():
        return {"id": current_credential().user_id}

    @app.get("/user")
    @any_auth.login_required(role="read")
    def read_user():
        return {"id": any_auth.current_user().id}

    headers, _ = crowd
    is_postgresql = not config_class.SQLALCHEMY_DATABASE_URI.startswith("sqlite")
    without, with_id, with_user = (
        calls(app.test_client(), path, headers) for path in ("/open", "/id", "/user")
    )
    driver = 70 if is_postgresql else 0
    with app.app_context():
        db.engine.dispose()
    # 206 in Python 3.11; other versions count a few more or less.
    assert with_id - without <= 225 + driver
    assert with_user - with_id <= 180


def calls(client, path, headers):
    """Return the number of function calls of a request, in Python and C."""
    environ = EnvironBuilder(path, headers=headers).get_environ()

    def run():
        body = client.application(dict(environ), lambda *_: None)
        assert b'"id":' in b"".join(body)
        body.close()

    run()
    profile = cProfile.Profile()
    profile.runcall(run)
    return sum(entry.callcount for entry in profile.getstats())


def test_no_route_reads_a_whole_table(client, crowd, plans):
    headers, real = crowd
    for _, path, _ in COSTS:
        client.get(real(path), headers=headers)
    client.post("/api/tokens", auth=("alice", PASSWORD))
    client.post("/api/tokens", auth=("alice@example.com", PASSWORD))
    assert len(plans) > len(COSTS)
    for statement, plan in plans:
        assert not is_full_scan(statement, plan), f"{statement}\n{plan}"
