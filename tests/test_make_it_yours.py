"""docs/make-it-yours.md, followed word for word in a copy of the project."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import PASSWORD, ROOT, Server, add_module_of_routes, basic
from tests.sessions import blocks

pytestmark = pytest.mark.alone  # runs the suite on all cores

PAGE = (ROOT / "docs" / "make-it-yours.md").read_text()


def section(heading):
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def run(fresh_copy):
    """Runs a script in a copy that is a clone, in the virtual environment of the tests."""
    directory, environment = fresh_copy
    environment = {
        **{name: value for name, value in environment.items() if not name.startswith("COV_")},
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "PYTHON_DOTENV_DISABLED": "1",
    }
    environment.pop("TEST_DATABASE_URL", None)

    def run(script):
        done = subprocess.run(
            ["bash", "-euo", "pipefail"],
            input=script,
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    run.directory, run.environment = directory, environment
    run("git init -q && git add -A && git -c user.name=x -c user.email=x@x commit -qm copy")
    return run


@pytest.mark.slow
def test_without_the_microblog_the_rest_of_the_suite_passes(run):
    (prefixes,) = blocks(section("Rename it"), "sh")
    files, schema = blocks(section("Take posts and following out"), "sh")
    run(prefixes + files)
    assert "No new upgrade operations detected." in run(schema)
    run("git add -A")
    assert run("git grep -nP 'microblog_(?!api)' -- ':!docs/make-it-yours.md' || true") == ""
    words = r"post_count|posts_|feed\b|unfollow|follow(er|ing|ed)|Follow[.,]|Post\b"
    traces = rf"\b({words})|_posts?\b|/posts"
    # tests/tutorial is the API of others, which has them.
    kept = "':!docs/make-it-yours.md' ':!*passwords.txt' ':!tests/tutorial'"
    where = f"app tests docs benchmarks README.md {kept}"
    assert run(f"git grep -nE '{traces}' -- {where} || true") == ""
    assert run(r"git grep -nE 'mb(l|d|a|\[lad\])_' -- ':!docs/make-it-yours.md' || true") == ""
    run("python -m ruff check . && python -m ruff format --check . && python -m mypy")
    on_all_cores = "--numprocesses auto --dist worksteal"
    passed = run(f"python -m pytest --no-cov -q -x -m 'not slow' {on_all_cores}")
    assert int(re.search(r"(\d+) passed", passed)[1]) > 1500
    # The pages, line by line.
    run("python -m pytest --no-cov -q -x tests/test_docs.py -m slow")

    # A version that comes later has a migration beside that of the page.
    (merge,) = blocks(section("Keep up with later versions"), "sh")
    run("flask db revision --head 0009 --splice -m later")
    run(f"{merge}\nflask db upgrade\nflask db check")


@pytest.mark.slow
def test_a_role_opens_what_is_for_administrators(run):
    add_route_for_administrators(run.directory)
    run("flask db upgrade")
    run("python -m ruff check . && python -m ruff format --check . && python -m mypy")
    run("python -m pytest --no-cov -q -x tests/test_access_tokens.py tests/test_docs.py -k table")
    (grant,) = blocks(section("Add a route for administrators"), "sh")
    alice, bob = basic("alice"), basic("bob")
    with Server(run.directory, **run.environment) as server:
        for name in ("alice", "bob"):
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            assert server.request("POST", "/api/users", json_body=body).status == 201
        run(grant)
        answer = server.request("GET", "/api/statistics", headers=alice)
        assert (answer.status, answer.json) == (200, {"users": 2})
        answer = server.request("GET", "/api/statistics", headers=bob)
        assert (answer.status, answer.json["error"]) == (403, "Forbidden")
        assert answer.json["message"] == "this takes one of the roles admin, support"
        assert server.request("GET", "/api/statistics").status == 401
        body = {"roles": ["admin"]}
        assert server.request("PUT", "/api/users/2", json_body=body, headers=bob).status == 200
        assert server.request("GET", "/api/statistics", headers=bob).status == 403


def add_route_for_administrators(directory):
    """Does what the page says, up to the command."""
    for block in blocks(section("Add a route for administrators"), "python"):
        (directory / re.match(r"# (\S+)\n", block)[1]).write_text(block)
    for name, after, line in [
        ("tests/routes.py", r"ROUTES = {\n", '    ("GET", "/api/statistics"): "",\n'),
        ("docs/routes.md", r"\|---\|---\|---\|\n", "| `GET /api/statistics` | log in | count |\n"),
    ]:
        path = directory / name
        text, count = re.subn(
            f"({after})", lambda found, line=line: found[1] + line, path.read_text()
        )
        assert count == 1
        path.write_text(text)
    add_module_of_routes(directory, "statistics")
