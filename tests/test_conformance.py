"""The conformance suite, aimed at this API, at the tutorial's, and at some that are worse."""

import ast
import base64
import hashlib
import itertools
import json
import re
import secrets
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from flask import request
from werkzeug.serving import make_server

from app import db as our_db
from conformance import at_rest, timing
from conformance.__main__ import main
from conformance.checks import ALL, FailedError
from conformance.client import Api, Connection
from conformance.run import Run
from conformance.tokens import estimated_bits
from tests import tutorial
from tests.helpers import ROOT, Server

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # measures time, and aims at moments

CLAIMS = {each.claim for each in ALL}

# What this API does not meet yet.
EXPECTED: set[str] = set()

NOT_LIMITED = "wrong passwords for one user are limited"

# What all editions do wrong, on SQLite.
FAULTS = {
    "a method that an address does not have gets 405, in JSON",
    "the answer with a token has Cache-Control: no-store",
    "a body that is no JSON object is no server error",
    "a field of a wrong type is no server error",
    "strange texts and addresses are no server error",
    "deep nesting is no server error",
    "an id that no user has gets 404 or 400, in JSON",
    "a page number that is too large is no server error",
    "two log ins at once both get a token that works",
    "a log in does not return a token whose log out was answered before",
    "of registrations of one user name at once, one gets 201, the others 400",
    "of registrations of one address at once, one gets 201, the others 400",
    "no text of a live token is in the database",
    "an unknown user takes as long as a wrong password",
    NOT_LIMITED,
}
# What the first editions do wrong beside that: errors of the framework are HTML.
EARLY_FAULTS = {
    "PUT /users/<id> of another user gets 403, and changes nothing",
    "400, 401, 403 and 404 are JSON",
    "a body of another type is no server error",
}

# What the tutorial does right is done wrong by these.
FAULTS_OF_YES = (
    CLAIMS
    - FAULTS
    - {
        "a body of another type is no server error",
        "a log out does not end a token that was made after it",
        "a token is refused by the very next request after its log out",
        "a change of password ends the tokens, also those of log ins meanwhile",
        "passwords are stored as slow hashes",
        "a token ends when it expires",  # is never checked
    }
)


def conformance(*arguments):
    """Run the command; return its exit status and the details by claim, by result."""
    done = subprocess.run(
        [sys.executable, "-m", "conformance", *arguments, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=450,
        check=False,
    )
    assert done.stdout, done.stderr
    return SimpleNamespace(status=done.returncode, **by_result(json.loads(done.stdout)))


def by_result(report):
    found = {"ok": {}, "FAILED": {}, "-": {}}
    for each in report["results"]:
        found[each["result"]][each["check"]] = each["detail"]
    assert report["failed"] == len(found["FAILED"])
    return {"ok": found["ok"], "failed": found["FAILED"], "skipped": found["-"]}


# -- This API and the tutorial's -----------------------------------------------------------


@pytest.mark.slow
def test_this_api_conforms(app, config_class):
    database = config_class.SQLALCHEMY_DATABASE_URI
    with Server(DATABASE_URL=database, SECRET_KEY=config_class.SECRET_KEY) as server:
        found = conformance(server.url, "--database", database)
    assert set(found.failed) == EXPECTED, found.failed
    assert found.status == bool(EXPECTED)
    assert len(found.ok) > 40, found.skipped
    assert "no text of a live token is in the database" in found.ok
    # Some of the 20 were tried by the other checks.
    assert "429 after" in found.ok[NOT_LIMITED]


@pytest.mark.slow
def test_an_unknown_user_takes_as_long_where_wrong_passwords_are_not_limited(tmp_path):
    limits = ("LOGIN_LIMIT_PER_SOURCE", "LOGIN_LIMIT_PER_ACCOUNT", "LOGIN_LIMIT_PER_ADDRESS")
    settings = dict.fromkeys(limits, "100000 per hour")
    settings |= {"DATABASE_URL": f"sqlite:///{tmp_path}/app.db", "SECRET_KEY": "k" * 50}
    with Server(**settings) as server:
        found = conformance(server.url, "--only", "timing")
    assert list(found.failed) == [NOT_LIMITED]
    assert list(found.ok) == ["an unknown user takes as long as a wrong password"]


@pytest.mark.slow
@pytest.mark.parametrize(("edition", "faults"), [("2021", FAULTS | EARLY_FAULTS), ("2024", FAULTS)])
def test_the_faults_of_the_tutorial_are_found_and_no_others(tmp_path, edition, faults):
    database = f"sqlite:///{tmp_path}/app.db"
    options = ("--database", database, "--edition", edition, "--port", "0")
    with Server(ROOT, (sys.executable, "-m", "tests.tutorial", *options)) as server:
        found = conformance(server.url, "--database", database, "--rounds", "30")
    assert set(found.failed) == faults, found.failed
    assert found.status == 1


# -- Each check can fail -------------------------------------------------------------------


class Yes(BaseHTTPRequestHandler):
    """Says yes to everything: each request but PUT works, whoever sends it."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = secrets.token_hex(4)
        body = {"id": 1, "username": "x", "email": "x@example.com", "access_token": token}
        text = json.dumps(body | {"message": "Traceback (most recent call last)"})
        status = 201 if (self.command, self.path) == ("POST", "/api/users") else 200
        if self.command in {"PUT", "TRACE"} or self.path == "/api/users?per_page=100":
            status = 500
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        with suppress(ValueError):
            if scheme == "Basic" and not base64.b64decode(value).isascii():
                status = 401
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Token", token)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = answer  # noqa: N815  names of http.server
    do_OPTIONS = do_TRACE = do_PROPFIND = do_NONSENSE = answer  # noqa: N815  names of http.server

    def log_message(self, *_):
        pass


@contextmanager
def served(server):
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def served_app(app):
    with served(make_server("127.0.0.1", 0, app, threaded=True)) as url:
        yield url
    with app.app_context():
        app.extensions["tutorial"].db.engine.dispose()


@pytest.fixture
def database(tmp_path):
    return f"sqlite:///{tmp_path}/app.db"


@pytest.fixture
def quick(database):
    """The tutorial with a hash that takes no time."""
    app = tutorial.create_app(database)
    user = app.extensions["tutorial"].models.User

    def set_password(self, password):
        self.password_hash = hashlib.md5(password.encode()).hexdigest()

    def check_password(self, password):
        return self.password_hash == hashlib.md5(password.encode()).hexdigest()

    user.set_password, user.check_password = set_password, check_password
    return app


def run(capsys, *arguments):
    """Like `conformance`, in this process."""
    status = main([*arguments, "--json"])
    return SimpleNamespace(status=status, **by_result(json.loads(capsys.readouterr().out)))


def test_what_the_tutorial_does_right_can_fail(capsys):
    with served(ThreadingHTTPServer(("127.0.0.1", 0), Yes)) as url:
        kinds = "contract,tokens,hostile"
        found = run(capsys, url, "--rounds", "1", "--only", kinds)
    expected = {each.claim for each in ALL if each.kind in kinds.split(",")} & FAULTS_OF_YES
    assert expected <= set(found.failed), expected - set(found.failed)


def test_a_body_of_another_type_can_fail(capsys, quick):
    @quick.before_request
    def read():
        assert request.content_type != "text/plain"

    with served_app(quick) as url:
        found = run(capsys, url, "--only", "hostile")
    assert found.failed["a body of another type is no server error"].startswith("2 of 14 requests")


def test_a_log_out_during_a_log_in_is_hit_where_log_ins_become_faster(quick):
    user = quick.extensions["tutorial"].models.User
    check_password, delays = user.check_password, [0.2] * 3

    def check_password_later(self, password):
        time.sleep(delays.pop() if delays else 0.05)
        return check_password(self, password)

    (check,) = (each for each in ALL if "whose log out was answered before" in each.claim)
    with served_app(quick) as url, Connection(Api(url, "/api")) as connection:
        one_run = Run(connection, 1, [])
        user.check_password = check_password_later
        result = check.result(one_run)
    assert result.detail.endswith("of 5 rounds the new token gets 401")


@pytest.mark.slow
def test_a_log_out_that_ends_a_later_token_is_found(capsys, quick):
    user = quick.extensions["tutorial"].models.User
    revoke_token, delays = user.revoke_token, itertools.cycle([0, 0.1, 0.2])

    def revoke_token_later(self):
        time.sleep(next(delays))
        revoke_token(self)

    user.revoke_token = revoke_token_later
    with served_app(quick) as url:
        found = run(capsys, url, "--only", "races")
    assert "gets 401" in found.failed["a log out does not end a token that was made after it"]


def test_a_token_that_is_remembered_and_one_that_outlives_its_password_are_found(capsys, quick):
    user, db = quick.extensions["tutorial"].models.User, quick.extensions["tutorial"].db
    check_token, remembered = user.check_token, {}

    def check_token_once(token):
        if token not in remembered and (found := check_token(token)):
            remembered[token] = found.id
        return db.session.get(user, remembered[token]) if token in remembered else None

    user.check_token = staticmethod(check_token_once)

    @quick.put("/api/users/<int:id>/password")
    def change_password(id):
        db.session.get(user, id).set_password(request.json["new_password"])
        db.session.commit()
        return "", 204

    with served_app(quick) as url:
        found = run(capsys, url, "--only", "races", "--rounds", "1")
    name = "a token is refused by the very next request after its log out"
    assert found.failed[name] == "in 3 of 3 rounds it is still accepted"
    name = "a change of password ends the tokens, also those of log ins meanwhile"
    assert "the token of before works" in found.failed[name]


def test_fast_hashes_and_tokens_are_found_at_rest(capsys, quick, database):
    with served_app(quick) as url:
        found = run(capsys, url, "--only", "at_rest", "--database", database)
    assert found.failed == {
        "no text of a live token is in the database": "it is in user.token",
        "passwords are stored as slow hashes": "user.password_hash is a fast hash",
    }


def test_each_check_is_shown_to_fail():
    found_by_a_test_each = {
        "a body of another type is no server error",
        "a log out does not end a token that was made after it",
        "a token is refused by the very next request after its log out",
        "a change of password ends the tokens, also those of log ins meanwhile",
        "passwords are stored as slow hashes",
    }
    never = {"a token ends when it expires"}
    assert FAULTS | FAULTS_OF_YES | found_by_a_test_each | never == CLAIMS


# -- The command ---------------------------------------------------------------------------


def test_a_table_is_printed(capsys, quick):
    with served_app(quick) as url:
        assert main([url, "--only", "tokens"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Registers users at {url}/api, named conf...; they stay there."
    assert lines[2] == "tokens"
    assert lines[-1] == "6 checks, 1 FAILED"
    (failed,) = (line for line in lines if line.startswith("  FAILED  "))
    assert failed.split("  ")[2] == "the answer with a token has Cache-Control: no-store"
    assert failed.endswith("200 for POST /api/tokens: Cache-Control is None")
    assert any(line.startswith("  -       a token ends when it expires") for line in lines)


def test_the_status_is_0_if_nothing_fails(capsys, quick):
    @quick.after_request
    def forbid_storing(response):
        response.headers["Cache-Control"] = "no-store"
        return response

    with served_app(quick) as url:
        found = run(capsys, url, "--only", "tokens")
    assert (found.status, found.failed) == (0, {})


def test_users_can_be_given_where_nobody_can_register(capsys, quick):
    models, db = quick.extensions["tutorial"].models, quick.extensions["tutorial"].db
    with quick.app_context():
        for name in ("susan", "john"):
            user = models.User(username=name, email=f"{name}@example.com")
            user.set_password("cat")
            db.session.add(user)
        db.session.commit()

    @quick.before_request
    def close():
        if (request.method, request.path) == ("POST", "/api/users"):
            return {"error": "Forbidden"}, 403
        return None

    with served_app(quick) as url:
        users = ("--user", "susan", "cat", "--user", "john", "cat")
        found = run(capsys, url, *users, "--only", "contract,races", "--rounds", "1")
        assert main([url]) == 2
        assert "nobody can register (403 for POST /api/users)" in capsys.readouterr().err
        assert main([url, *users[:3]]) == 2
        assert "--user is given twice" in capsys.readouterr().err
        assert main([url, *users[:-1], "dog"]) == 2
        assert "cannot be used: 401 for POST /api/tokens" in capsys.readouterr().err
    assert found.skipped["a user name that is taken gets 400"] == (
        "registers users, and --user was given"
    )
    assert "PUT /users/<id> changes your own user" in found.ok


def test_the_routes_may_be_under_another_prefix(capsys, quick):
    def shortened(environ, start_response):
        environ["PATH_INFO"] = "/api" + environ["PATH_INFO"].removeprefix("/v1/users-api")
        environ["SCRIPT_NAME"] = ""
        return wsgi_app(environ, start_response)

    wsgi_app, quick.wsgi_app = quick.wsgi_app, shortened
    with served_app(quick) as url:
        found = run(capsys, url, "--prefix", "/v1/users-api/", "--only", "tokens")
        assert list(found.failed) == ["the answer with a token has Cache-Control: no-store"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ftp://x"], "ftp://x is no URL of a server; http://127.0.0.1:5000 is one"),
        (["http://127.0.0.1:1"], "http://127.0.0.1:1/api: POST /api/users broke off"),
        (["http://127.0.0.1:1", "--only", "races,x"], "--only: no x; there are contract, tokens"),
        (
            ["http://127.0.0.1:1", "--database", "sqlite:///missing.db"],
            "--database: there is no file missing.db",
        ),
        (
            ["http://127.0.0.1:1", "--database", "oracle://x"],
            "--database takes sqlite:///, postgresql:// or mysql://, not oracle",
        ),
    ],
)
def test_the_status_is_2_if_the_api_cannot_be_used(capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"conformance: {message}")
    assert error.count("\n") == 1


def test_the_readme_names_every_option_and_every_kind(capsys):
    page = (ROOT / "conformance" / "README.md").read_text()
    with pytest.raises(SystemExit):
        main(["--help"])
    options = set(re.findall(r"^  (--\w+)", capsys.readouterr().out, re.MULTILINE))
    assert options == set(re.findall(r"^\| `(--\w+)", page, re.MULTILINE))
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {each.kind for each in ALL}


def test_a_wrong_prefix_is_named(capsys, quick):
    with served_app(quick) as url:
        assert main([url, "--prefix", "/v2"]) == 2
    assert "404 for POST /v2/users: is --prefix right?" in capsys.readouterr().err


# -- Parts ---------------------------------------------------------------------------------


def test_the_suite_takes_the_standard_library_alone():
    for path in (ROOT / "conformance").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                root = name.partition(".")[0]
                assert root in {"conformance", *sys.stdlib_module_names}, f"{path}: {name}"


@pytest.mark.parametrize(
    ("one", "other", "p"),
    [
        (range(1, 11), range(11, 21), 0.000157),  # U = 0
        (range(1, 20, 2), range(2, 21, 2), 0.7055),  # U = 45
        ([1, 2, 2, 3], [2, 3, 3, 4], 0.1292),  # ties; U = 3
        ([5] * 10, [5] * 10, 1),
    ],
)
def test_mann_whitney(one, other, p):
    assert timing.mann_whitney(list(one), list(other)) == pytest.approx(p, rel=0.01)
    assert timing.mann_whitney(list(other), list(one)) == pytest.approx(p, rel=0.01)


def test_times_are_judged_by_ranks_and_by_medians():
    slow = [0.1 + number / 10_000 for number in range(100)]
    assert "p = " in timing.judged(slow, slow)
    # It is sure that these differ, but by too little.
    timing.judged(slow, [value * 1.06 for value in slow])
    # These differ by much, but it is not sure.
    timing.judged([0.1, 0.2], [0.3, 0.4])
    with pytest.raises(FailedError, match=r"unknown 105.0 ms, known 209.9 ms, p = \d"):
        timing.judged(slow, [value * 2 for value in slow])


def test_what_is_the_same_in_all_tokens_is_no_entropy():
    tokens = [f"mbx_{number:04x}{number * 7919 % 65536:04x}==" for number in (1, 4097, 60000)]
    assert estimated_bits(tokens) == 8 * 4
    assert estimated_bits([f"session-{number}" for number in range(1000, 1010)]) < 4
    assert estimated_bits([secrets.token_urlsafe(32) for _ in range(8)]) > 240


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_digests_and_plain_passwords_are_fast_hashes(algorithm):
    digest = hashlib.new(algorithm, b"cat").hexdigest()
    assert at_rest.is_fast_hash(digest, "cat")
    assert at_rest.is_fast_hash(f"{algorithm}$salt${digest}", "cat")
    assert at_rest.is_fast_hash("a cat", "cat")
    assert at_rest.is_fast_hash(b"cat".hex(), "cat")


@pytest.mark.parametrize(
    "text",
    [
        "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$" + "A" * 43,
        "scrypt:32768:8:1$salt$" + "0" * 128,
        "pbkdf2:sha256:260000$salt$" + "0" * 64,
        "$2b$12$" + "a" * 53,
    ],
)
def test_slow_hashes_are_none(text):
    assert not at_rest.is_fast_hash(text, "cat")


def test_a_text_is_found_in_hexadecimal_base64_and_bytes():
    wanted = at_rest.forms("mbx_secret")
    for value in ("xmbx_secrety", b"mbx_secret", b"mbx_secret".hex(), "bWJ4X3NlY3JldA"):
        assert at_rest.contains(value, wanted)
    for value in (None, 1, "mbx_", hashlib.sha256(b"mbx_secret").hexdigest()):
        assert not at_rest.contains(value, wanted)


def test_all_tables_of_the_database_are_read(app, config_class, alice):
    found = list(at_rest.rows(config_class.SQLALCHEMY_DATABASE_URI))
    (user,) = (row for table, row in found if "username" in row)
    assert (user["id"], user["username"]) == (alice, "alice")
    tables = {table.rpartition(".")[2].strip('"') for table, _ in found}
    with app.app_context():
        filled = {"user", "total", "alembic_version"}
        known = {*sa.inspect(our_db.engine).get_table_names(), "sqlite_sequence"}
        assert filled <= tables <= known


def test_a_driver_that_is_missing_is_no_error(capsys, quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with served_app(quick) as url:
        found = run(capsys, url, "--only", "at_rest", "--database", "mysql+pymysql://root@x/y")
    assert set(found.skipped.values()) == {"pymysql is not installed here"}
    assert found.status == 0
