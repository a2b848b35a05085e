"""docs/make-it-yours.md, followed word for word in a copy of the project."""

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers import PASSWORD, ROOT, Server, add_module_of_routes, basic
from tests.sessions import blocks

PAGE = (ROOT / "docs" / "make-it-yours.md").read_text()

# Left out of the rest of the suite, as nothing of the microblog is there: what needs a
# browser or packages from the network, and what takes longest.
LEFT_OUT = (
    "test_browser",
    "test_clients",
    "the_session_in_the_readme",  # installs a virtual environment
    "schemathesis",
    "test_10000_guesses",
    "test_clock",
    "test_draining",
    "test_faults",
    "test_image",
    "test_proxies",
    "test_replica",
    "test_slow_clients",
    "test_systemd",
    "test_upgrade",
)


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
    where = "app tests docs benchmarks README.md ':!docs/make-it-yours.md' ':!*passwords.txt'"
    assert run(f"git grep -nE '{traces}' -- {where} || true") == ""
    assert run("git grep -nE 'mb(l|a|\\[la\\])_' -- ':!docs/make-it-yours.md' || true") == ""
    run("python -m ruff check . && python -m ruff format --check . && python -m mypy")
    rest = " and ".join(f"not {name}" for name in LEFT_OUT)
    passed = run(f"python -m pytest --no-cov -q -x -k '{rest}'")
    assert int(re.search(r"(\d+) passed", passed)[1]) > 500

    # A version that comes later has a migration beside that of the page.
    (merge,) = blocks(section("Keep up with later versions"), "sh")
    run("flask db revision --head 0004 --splice -m later")
    run(f"{merge}\nflask db upgrade\nflask db check")


@pytest.mark.slow
def test_a_role_opens_what_is_for_administrators(run):
    add_roles(run.directory)
    (schema,) = blocks(section("Add roles"), "sh")
    run(f"flask db upgrade\n{schema}\nflask db check")
    run("python -m ruff check . && python -m ruff format --check . && python -m mypy")
    run("python -m pytest --no-cov -q -x tests/test_access_tokens.py tests/test_docs.py -k table")
    (promote,) = blocks(section("Add roles"), "sql")
    alice, bob = basic("alice"), basic("bob")
    with Server(run.directory, **run.environment) as server:
        for name in ("alice", "bob"):
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            assert server.request("POST", "/api/users", json_body=body).status == 201
        with closing(sqlite3.connect(run.directory / "app.db")) as database:
            database.execute(promote)
            database.commit()
        answer = server.request("GET", "/api/statistics", headers=alice)
        assert (answer.status, answer.json) == (200, {"users": 2})
        answer = server.request("GET", "/api/statistics", headers=bob)
        assert (answer.status, answer.json["error"]) == (403, "Forbidden")
        assert answer.json["message"] == "only administrators may do this"
        assert server.request("GET", "/api/statistics").status == 401
        body = {"role": "admin"}
        assert server.request("PUT", "/api/users/2", json_body=body, headers=bob).status == 200
        assert server.request("GET", "/api/statistics", headers=bob).status == 403


def add_roles(directory):
    """Does what the page says, up to the migration."""
    column, *modules = blocks(section("Add roles"), "python")
    for block in modules:
        (directory / re.match(r"# (\S+)\n", block)[1]).write_text(block)
    for name, after, line in [
        ("app/models/user.py", r"    about_me: .*\n", column),
        ("tests/routes.py", r"ROUTES = {\n", '    ("GET", "/api/statistics"): "read",\n'),
        ("docs/routes.md", r"\|---\|---\|---\|\n", "| `GET /api/statistics` | `read` | count |\n"),
    ]:
        path = directory / name
        text, count = re.subn(
            f"({after})", lambda found, line=line: found[1] + line, path.read_text()
        )
        assert count == 1
        path.write_text(text)
    add_module_of_routes(directory, "statistics")
