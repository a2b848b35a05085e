"""The pages in docs/: their sessions, tables and links are compared with the code."""

import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import CHEAP
from tests.helpers import ROOT, Server, basic
from tests.sessions import assert_prints_as_documented, assert_same_lines, blocks

DOCS = ROOT / "docs"
PAGES = [
    "logging-in.md",
    "access-tokens.md",
    "users.md",
    "mail.md",
    "admin.md",
    "posts.md",  # microblog
    "errors.md",
    "introspection.md",
]


# -- Sessions --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_the_session_of_a_page_matches_the_answers_of_a_new_server(page, new_server, tmp_path):
    session = "".join(blocks((DOCS / page).read_text(), "sh"))
    assert session.count("\n# {") >= 4
    # For `flask`, on the server.
    environment = new_server.environment | {
        "FLASK_APP": str(ROOT / "microblog_api.py"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    assert_prints_as_documented(session, new_server.url, tmp_path, environment)


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (["{...}"], ['{"id":1}'], True),
        (['{"id":1,...,"next":null}'], ['{"id":1,"a":{},"next":null}'], True),
        (['{"id":1,...}'], ['{"id":2,"a":{}}'], False),
        (['{"token":"mbl_..."}'], ['{"token":"mbl_' + "0" * 36 + '"}'], True),
        (["200"], ["2000"], False),
        (["a.c"], ["abc"], False),
        (["..."], ["{}"], False),
        ([" ... "], ["{}"], False),
        (["......"], ["{}"], False),
        (["a..."], ["a", "b"], False),
        (["a...", "b"], ["a"], False),
        ([], ["a"], False),
        (["a..."], ["a..."], True),
    ],
)
def test_an_ellipsis_shortens_a_line_and_never_replaces_a_whole_one(expected, printed, same):
    if same:
        assert_same_lines(printed, expected)
    else:
        with pytest.raises(AssertionError):
            assert_same_lines(printed, expected)


# -- Tables ----------------------------------------------------------------------------


def rows(page, heading):
    """Return the rows, as lists of cells, of the table whose first heading is `heading`."""
    text = re.sub(" *<!--.*?-->", "", (DOCS / page).read_text())
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE).group(1)
    return [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines()]


def test_the_table_of_routes_is_complete(app):
    told = [row[0].strip("|` ") for row in rows("routes.md", "request")]
    routes = {
        f"{method} {re.sub('<int:', '<', rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert len(told) == len(set(told))
    assert set(told) == routes


def test_the_table_of_routes_names_the_credentials_of_each_route(client):
    paths = client.get("/openapi.json").json["paths"]
    for request, takes, _ in rows("routes.md", "request"):
        method, path = request.strip("|` ").split()
        operation = paths.get(re.sub("<(.*?)>", r"{\1}", path), {}).get(method.lower())
        if operation is None:  # /docs and /openapi.json are not in the OpenAPI document
            assert takes == "nothing"
            continue
        security = operation["security"]
        roles = [roles for needed in security for roles in needed.get("Token", [None]) or ["any"]]
        schemes = {scheme for needed in security for scheme in needed}
        expected = {"account": "log in", "any": "any"}
        if not security:
            assert takes == "nothing", request
        elif schemes == {"Password"}:
            assert takes == "password", request
        else:
            (role,) = set(roles) - {None}
            assert takes == expected.get(role, f"`{role}`"), request


def test_the_table_of_commands_is_complete(app):
    told = {
        re.match(r"\| `flask ([\w-]+(?: \w+)?)", row[0]).group(1)
        for row in rows("operation.md", "command")
    }
    own = ("users", "tokens", "mail", "fake")
    commands = {f"{name} {command}" for name in own for command in app.cli.commands[name].commands}
    assert told == commands | {name for name in app.cli.commands if "-" in name}


def test_the_table_of_audit_events_is_complete():
    told = [row[0].strip("|` ") for row in rows("operation.md", "event")]
    (code,) = (ROOT / "app").rglob("audit.py")
    events = re.findall(r'^    [A-Z_]+ = "([a-z_]+)"', code.read_text(), re.MULTILINE)
    assert told == events


# -- Files and links -------------------------------------------------------------------


def test_the_nginx_configuration_in_the_docs_is_part_of_the_deployment_file():
    (shown,) = blocks((DOCS / "introspection.md").read_text(), "nginx")
    assert shown in (ROOT / "deployment" / "nginx" / "protected-site.conf").read_text()


def program(name):
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    return found or pytest.skip(f"{name} is not installed")


@pytest.fixture
def proxied(tmp_path):
    """Start a server behind the proxy of docs/deployment.md; return a function that logs in."""
    nginx, openssl = program("nginx"), program("openssl")
    key, certificate = tmp_path / "example.key", tmp_path / "example.pem"
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], capture_output=True, check=True)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    trust = ssl.create_default_context(cafile=certificate)
    trust.check_hostname = False

    def log_in(host="api.example.com", **headers):
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=trust, timeout=20)
        with closing(connection):
            credentials = basic("nobody", "wrong one")
            connection.request(
                "POST", "/api/tokens", headers=credentials | headers | {"Host": host}
            )
            answer = connection.getresponse()
            answer.read()
            return answer

    database = f"sqlite:///{tmp_path}/app.db"
    page = (DOCS / "deployment.md").read_text()
    (start,) = [
        block
        for block in blocks(page, "sh")
        if re.match("TRUSTED_PROXIES=.* TRUSTED_HOSTS=.* ./boot.sh", block)
    ]
    settings = dict(word.split("=") for word in start.split() if "=" in word)
    with Server(DATABASE_URL=database, SECRET_KEY="of tests", **CHEAP, **settings) as server:
        conf, _under_a_path = blocks(page, "nginx")
        for theirs, here in [
            ("443", f"127.0.0.1:{port}"),
            ("127.0.0.1:5000", urlsplit(server.url).netloc),
            ("/etc/ssl/api.example.com.pem", str(certificate)),
            ("/etc/ssl/api.example.com.key", str(key)),
        ]:
            assert theirs in conf
            conf = conf.replace(theirs, here)
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n".join(f"{name}_temp_path {tmp_path}/{name};" for name in names)
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
            f"events {{}}\nhttp {{\naccess_log off;\n{paths}\n{conf}\n}}\n"
        )
        command = [nginx, "-c", tmp_path / "nginx.conf", "-p", tmp_path]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            for _ in range(100):
                with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port))):
                    break
                time.sleep(0.05)
            yield log_in
            process.terminate()


def test_a_server_behind_the_documented_proxy_detects_tls_and_the_client_address(proxied):
    answers = [
        proxied(**{"X-Forwarded-For": f"203.0.113.{number}", "X-Forwarded-Proto": "http"})
        for number in range(21)
    ]
    assert [answer.status for answer in answers] == [401] * 20 + [429]
    assert answers[0].headers["Strict-Transport-Security"]


def test_a_server_behind_the_documented_proxy_refuses_other_hosts(proxied):
    assert proxied().status == 401
    assert proxied(host="evil.example").status == 400


def pages():
    yield from [*ROOT.glob("*.md"), *ROOT.glob("conformance/*.md")]
    yield from (path for path in DOCS.rglob("*.md") if "node_modules" not in path.parts)


def test_every_file_that_a_page_names_exists():
    named = r"`((?:app|tests|docs|deployment|benchmarks|migrations)/[^`\s]*)`"
    missing = {
        f"{page.name}: {path}"
        for page in pages()
        for path in re.findall(named, page.read_text())
        if not (ROOT / path).exists()
    }
    assert missing == set()


def test_no_link_between_the_pages_is_broken():
    for page in pages():
        for target in re.findall(r"\]\((?!https?://)(.*?)\)", page.read_text()):
            name, _, heading = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), f"{page.name}: {target}"
            if heading:
                slugs = {
                    re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
                    for line in file.read_text().splitlines()
                    if line.startswith("#")
                }
                assert heading in slugs, f"{page.name}: {target}"


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text()
    for page in [*DOCS.glob("*.md"), *(DOCS / "decisions").glob("*.md")]:
        if page.name != "README.md":
            assert f"]({page.relative_to(DOCS)})" in index, page.name
