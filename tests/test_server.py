"""`boot.sh` as its user has it: the first line, a clean end, a crash, and what makes it stop."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from app import tokens
from config import database_uri
from tests.conftest import TEST_DATABASE_URL
from tests.helpers import PASSWORD, ROOT, Server, at_once, basic, bearer


def boot(**environment):
    """Starts boot.sh where it is expected to stop by itself."""
    return subprocess.run(
        ["./boot.sh"],
        cwd=ROOT,
        env={**os.environ, "PORT": "0", "SECRET_KEY": "key", **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_the_first_line_says_the_address(server):
    pattern = r"Microblog API is ready at http://127\.0\.0\.1:\d+"
    assert re.fullmatch(pattern, server.first_line)
    assert server.request("GET", "/api/users").status == 401


def test_a_second_start_takes_seconds(server):
    server.stop()
    server.process.stdout.close()
    start = time.monotonic()
    server.start()
    assert time.monotonic() - start < 10


def test_sigterm_ends_it_once_requests_in_flight_are_answered(app, config_class):
    # A hash that takes most of a second, so that there is something in flight.
    with Server(
        DATABASE_URL=config_class.SQLALCHEMY_DATABASE_URI,
        SECRET_KEY=config_class.SECRET_KEY,
        ARGON2_MEMORY_KIB="262144",
        ARGON2_TIME_COST="4",
    ) as server:
        answers = []

        def register(number):
            name = f"user{number}"
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            answers.append(server.request("POST", "/api/users", json_body=body).status)

        threads = [threading.Thread(target=register, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert answers == []
        assert server.stop() == 0
        for thread in threads:
            thread.join()
        assert answers == [201, 201]


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(server):
    acknowledged = []

    def register_and_log_in(number):
        for round_ in range(10):
            name = f"user{number}-{round_}"
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            try:
                answer = server.request("POST", "/api/users", json_body=body)
                assert answer.status == 201
                answer = server.request("POST", "/api/tokens", headers=basic(name))
                assert answer.status == 200
            except OSError:  # killed
                return
            acknowledged.append((name, answer.json["token"]))

    def kill_in_the_middle():
        deadline = time.monotonic() + 30
        while len(acknowledged) < 60 and time.monotonic() < deadline:
            time.sleep(0.005)
        server.crash()

    at_once(
        21, lambda number: kill_in_the_middle() if number == 20 else register_and_log_in(number)
    )
    assert 60 <= len(acknowledged) < 200
    server.process.stdout.close()
    server.start()
    for name, token in acknowledged:
        answer = server.request("GET", "/api/users/me", headers=bearer(token))
        assert (answer.status, answer.json["username"]) == (200, name)


def test_the_log_has_neither_tokens_nor_passwords(server, register):
    register("alice")
    token = server.request("POST", "/api/tokens", headers=basic("alice")).json["token"]
    server.request("GET", "/api/users/me", headers=basic(token, ""))
    server.request("GET", f"/api/users?access_token={token}")
    server.stop()
    log = "".join(server.output)
    assert '"GET /api/users/me" 200' in log
    assert '"GET /api/users" 400' in log
    assert token not in log
    assert PASSWORD not in log
    assert "alice" not in log


def test_a_header_of_8_kilobytes_is_refused_in_json(server):
    answer = server.request("GET", "/api/users", headers=bearer("x" * 8192))
    assert (answer.status, answer.json) == (401, {"error": "Unauthorized"})


def test_an_id_or_a_page_of_5000_digits_is_refused_in_json(server, register):
    register("alice")
    answer = server.request("GET", f"/api/users/{'9' * 5000}", headers=basic("alice"))
    assert (answer.status, answer.json["error"]) == (404, "Not Found")
    answer = server.request("GET", f"/api/users?page={'9' * 5000}", headers=basic("alice"))
    assert (answer.status, list(answer.json["errors"])) == (400, ["page"])


def test_no_line_can_be_forged_in_the_log(server):
    token = tokens.make()
    server.request("GET", "/x%0a127.0.0.1%20%22GET%20/forged%22%20200%1b[2J")
    server.request("GET", f"/api/users/{token}")
    server.stop()
    forged = [line for line in server.output if "forged" in line]
    assert len(forged) == 1
    assert '"GET /x%0A127.0.0.1%20%22GET%20/forged%22%20200%1B%5B2J" 404' in forged[0]
    assert '"GET /api/users/mbl_..." 404' in "".join(server.output)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /api/users HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {token}\r\n\r\n", 400),
        ("GET /api/users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \x01{token}\r\n\r\n", 400),
        ("GET {token}\r\n\r\n", 400),
        ("{token} / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/9.9{token}\r\n\r\n", 400),
        ("GET /?{token}" + "x" * 9000 + " HTTP/1.1\r\n\r\n", 414),
        ("GET / HTTP/1.1\r\nHost: x\r\n{token}: " + "x" * 17000 + "\r\n\r\n", 431),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {token}\r\n\r\n", 501),
    ],
)
def test_what_is_no_http_is_refused_in_json_and_not_logged(server, request_, status):
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(request_.replace("{token}", tokens.make()).encode())
        answer = connection.makefile("rb").read().decode()
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: application/json" in head
    assert set(json.loads(body)) == {"error", "message"}
    server.stop()
    assert "mbl_" not in "".join(server.output)


def chunked(server, *chunks, path="/api/users", content_type="application/json"):
    """The head of the answer to a request whose chunks are sent as they are."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
            "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
        )
        with suppress(OSError):  # it may have answered and hung up already
            for chunk in chunks:
                connection.sendall(chunk)
        return connection.makefile("rb").read().decode()


def chunk(body):
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


def test_a_chunked_body_is_read_and_one_that_is_too_large_is_413(server):
    body = b'{"username": "alice", "email": "alice@example.com", "password": "correct horse"}'
    end = chunk(b"")
    assert chunked(server, chunk(body[:9]), chunk(body[9:]), end).startswith("HTTP/1.1 201")
    padded = [chunk(body.replace(b"alice", b"bob")), *[chunk(b" " * 10_000)] * 20, end]
    answer = chunked(server, *padded)
    assert answer.startswith("HTTP/1.1 413")
    assert '"error":"Request Entity Too Large"' in answer
    assert server.request("GET", "/api/users/me", headers=basic("bob")).status == 401


@pytest.mark.parametrize("garbage", [b"zz\r\n{}\r\n", b"-1\r\n", b"5\r\n{}xxxxx"])
def test_a_broken_chunk_is_400(server, garbage):
    answer = chunked(server, garbage)
    assert answer.startswith("HTTP/1.1 400")
    assert '"error":"Bad Request"' in answer


@pytest.mark.parametrize(
    ("framing", "status"),
    [("Transfer-Encoding: chunked", 400), ("Content-Length: 100", 400)],
)
def test_a_form_that_is_not_as_announced_ends_no_token_and_is_not_logged(
    server, register, framing, status
):
    register("alice")
    token = server.request("POST", "/api/tokens", headers=basic("alice")).json["token"]
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(
            f"POST /api/tokens/revoke HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{framing}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\n\r\ntoken={token}\r\n".encode()
        )
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith(f"HTTP/1.1 {status}")
    assert server.request("GET", "/api/users/me", headers=bearer(token)).status == 200
    server.stop()
    assert "mbl_" not in "".join(server.output)


def test_a_body_that_ends_too_early_is_400(server):
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(
            b"POST /api/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{}"
        )
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 400")
    assert "ends before its Content-Length" in answer or "could not be read" in answer


@pytest.mark.parametrize("header", ["SCRIPT_NAME", "Script-Name", "X-Script-Name"])
def test_no_header_moves_the_application_elsewhere(server, header):
    answer = server.request("GET", "/evil/api/users", headers={header: "/evil"})
    assert (answer.status, answer.json["error"]) == (404, "Not Found")


@pytest.fixture
def small_server(tmp_path):
    """One of which eight clients can take all threads."""
    with Server(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", WEB_THREADS="8") as server:
        yield server


def test_clients_that_fall_silent_give_their_threads_back(small_server):
    address = urlsplit(small_server.url)
    head = b"POST /api/users HTTP/1.1\r\nHost: x\r\n"
    body = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with ExitStack() as stack:
        for part in [head, head + body] * 4:
            connection = socket.create_connection((address.hostname, address.port))
            stack.enter_context(connection).sendall(part)
        assert small_server.request("GET", "/api/users", timeout=45).status == 401


def test_clients_that_read_no_more_give_their_threads_back(small_server):
    address = urlsplit(small_server.url)
    # More than the kernel keeps for them.
    requests = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 10
    with ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect((address.hostname, address.port))
            connection.sendall(requests)
        time.sleep(1)
        assert small_server.request("GET", "/api/users", timeout=90).status == 401


def test_a_short_key_is_told_after_the_address(config_class, app):
    uri = config_class.SQLALCHEMY_DATABASE_URI
    with Server(DATABASE_URL=uri, SECRET_KEY="short") as server:
        server.stop()
    assert server.output[0].startswith("SECRET_KEY is short")


@pytest.mark.parametrize("name", ["PORT", "DATABASE_URL"])
def test_a_wrong_setting_stops_it_at_once_with_the_reason(name):
    process = boot(**{name: "nonsense"})
    assert process.returncode != 0
    assert process.stderr.startswith(f"{name}: must ")
    assert process.stdout == ""


def test_a_database_that_cannot_be_opened_stops_it_at_once_with_the_reason():
    process = boot(DATABASE_URL="sqlite:////nowhere/app.db")
    assert process.returncode != 0
    assert (
        process.stderr
        == "Error: cannot open sqlite:////nowhere/app.db: unable to open database file\n"
    )


def test_a_broken_migration_stops_it_at_once_with_the_reason(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    with engine.begin() as connection:
        connection.execute(sa.text('CREATE TABLE "user" (id INTEGER)'))
    engine.dispose()
    process = boot(DATABASE_URL=f"sqlite:///{tmp_path}/app.db")
    assert process.returncode != 0
    assert "table user already exists" in process.stderr
    assert process.stdout == ""


@pytest.mark.skipif(not TEST_DATABASE_URL, reason="needs PostgreSQL")
def test_a_postgresql_server_that_refuses_stops_it_at_once_with_the_reason():
    url = sa.make_url(database_uri(TEST_DATABASE_URL)).set(database="no_such_database")
    process = boot(DATABASE_URL=url.render_as_string(hide_password=False))
    assert process.returncode != 0
    assert '"no_such_database" does not exist' in process.stderr
    assert "Traceback" not in process.stderr


def test_a_database_that_does_not_answer_yet_is_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    process = subprocess.Popen(
        ["./boot.sh"],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": f"postgresql://127.0.0.1:{port}/app",
            "SECRET_KEY": "key",
        },
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process.stderr as stderr:
        lines = [stderr.readline() for _ in range(2)]
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=20)
    for line in lines:
        assert line.startswith("waiting for the database to answer: ")
        assert "Connection refused" in line
