"""The log: one JSON object per line with the request id; readable text on a terminal."""

import contextlib
import io
import json
import logging
import os
import pty
import sqlite3
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from app.http import audit, logs
from app.security import tokens
from tests.helpers import ROOT, Server, basic

RECORD = {"name": "app", "level": logging.ERROR, "pathname": "", "lineno": 1, "args": ()}


def formatted(formatter, msg, exc_info=None):
    return formatter().format(logging.LogRecord(**RECORD, msg=msg, exc_info=exc_info))


def raised(text):
    error = RuntimeError(text)
    try:
        raise error
    except RuntimeError:
        return sys.exc_info()


def test_an_access_line_says_when_who_what_and_how_long(new_server):
    answer = new_server.request("GET", "/api/users?page=1")
    new_server.stop()
    (line,) = [line for line in new_server.log() if line.get("event") == "request"]
    assert list(line) == [
        *("time", "event", "method", "path", "status"),
        *("milliseconds", "bytes", "source", "request_id"),
    ]
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    assert (line["event"], line["method"], line["path"]) == ("request", "GET", "/api/users")
    assert (line["status"], line["bytes"]) == (401, len(answer.text))
    assert 0 < line["milliseconds"] < 10_000
    assert (line["source"], line["request_id"]) == ("127.0.0.1", answer.headers["X-Request-Id"])


def test_a_traceback_is_one_line_with_the_id_of_the_request(tmp_path):
    with Server(DATABASE_URL=f"sqlite:///{tmp_path}/app.db") as server:
        with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as database:
            database.execute('ALTER TABLE "user" RENAME TO former')
        answer = server.request("POST", "/api/tokens", headers=basic("alice"))
        server.stop()
    assert answer.status == 500
    assert all(line.startswith("{") for line in server.output)
    (error,) = [line for line in server.log() if "level" in line]
    assert list(error) == ["time", "level", "logger", "message", "traceback", "request_id"]
    assert (error["level"], error["message"]) == ("ERROR", "Exception on /api/tokens [POST]")
    assert error["traceback"].startswith("Traceback (most recent call last):\n")
    assert "no such table: user" in error["traceback"]
    assert error["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize("formatter", [logs.JSONFormatter, logs.TextFormatter])
def test_nothing_in_a_message_or_an_exception_can_forge_a_line(formatter):
    forged = 'x\n{"event": "log_in"}\r\x1b[2J\u2028{}\x85{}'
    text = formatted(formatter, forged, raised(forged))
    first, *others = text.splitlines()
    assert all(line.startswith("    ") for line in others)
    assert all(line.isprintable() for line in (first, *others))
    assert first.isascii()


@pytest.mark.parametrize(
    "prefix", [tokens.LOGIN_PREFIX, tokens.DEVICE_PREFIX, tokens.ACCESS_PREFIX]
)
def test_json_holds_the_whole_message_and_no_token(prefix):
    token = tokens.make(prefix)
    line = json.loads(formatted(logs.JSONFormatter, f"é\n{token}", raised(token)))
    assert line["message"] == f"é\n{prefix}..."
    assert token not in line["traceback"]
    assert line["request_id"] is None


def test_text_has_the_traceback_below():
    text = formatted(logs.TextFormatter, "broken", raised("reason"))
    first, *others = text.splitlines()
    assert first.endswith(" ERROR broken logger=app")
    assert others[0] == "    Traceback (most recent call last):"
    assert others[-1] == "    RuntimeError: reason"


def test_text_of_an_event_has_its_fields(app):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.TextFormatter())
    logger = logging.getLogger("microblog_api.audit")
    logger.addHandler(handler)
    audit.record(audit.Event.LOG_IN, 1)
    environ = {"REMOTE_ADDR": "::1", "microblog_api.request_id": "0a"}
    with app.test_request_context(environ_base=environ):
        audit.record(audit.Event.LOG_OUT, 2)
    logger.removeHandler(handler)
    lines = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == ["log_in user_id=1", "log_out user_id=2 source=::1 request_id=0a"]


CODE = """
import sys, logging
{before}
import app
from app.http import audit
created = app.create_app()
with created.app_context():
    created.logger.error("one\\nerror")
    logging.getLogger("app.security.rate_limits").warning("two")
    audit.record(audit.Event.LOG_IN, 3)
"""


def run(before, stderr=subprocess.PIPE):
    return subprocess.run(
        [sys.executable, "-c", CODE.replace("{before}", before)],
        cwd=ROOT,
        env={**os.environ, "SECRET_KEY": "key", "DATABASE_URL": "sqlite://"},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=True,
    )


@pytest.mark.slow
def test_without_a_server_the_lines_are_json_on_standard_error():
    error, warning, event = map(json.loads, run("").stderr.splitlines())
    assert (error["message"], warning["message"]) == ("one\nerror", "two")
    assert (event["event"], event["user_id"]) == ("log_in", 3)


@pytest.mark.slow
def test_on_a_terminal_the_lines_are_text():
    terminal, end = pty.openpty()
    run("", stderr=end)
    os.close(end)
    lines = os.read(terminal, 10_000).decode().splitlines()
    os.close(terminal)
    assert [line.split(" ", 1)[1] for line in lines] == [
        "ERROR one\\nerror logger=app",
        "WARNING two logger=app.security.rate_limits",
        "log_in user_id=3",
    ]


@pytest.mark.slow
def test_the_configuration_of_the_embedding_program_wins():
    process = run("logging.basicConfig(format='own %(name)s', stream=sys.stdout)")
    assert process.stderr == ""
    assert process.stdout.splitlines() == [
        "own app",
        "own app.security.rate_limits",
        "own microblog_api.audit",
    ]


def test_a_token_that_a_proxy_passes_off_as_an_address_is_not_logged(client_of, token, caplog):
    client = client_of(TRUSTED_PROXIES=1)
    client.post("/api/tokens", auth=("nobody", "x"), headers={"X-Forwarded-For": token})
    assert token not in caplog.text
    assert '"source": null' in caplog.text
