"""`boot.sh`: the first line, signals, a crash, invalid HTTP, TLS, and errors at the start."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from app.security import tokens
from config import database_uri
from tests.conftest import TEST_DATABASE_URL
from tests.helpers import (
    PASSWORD,
    ROOT,
    Server,
    at_once,
    basic,
    bearer,
    json_of,
    make_certificate,
    until,
)

pytestmark = pytest.mark.slow


def boot(**environment):
    """Run boot.sh, which must stop by itself; return the finished process."""
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


@pytest.mark.alone
def test_a_second_start_takes_less_than_10_seconds(server):
    server.stop()
    server.process.stdout.close()
    start = time.monotonic()
    server.start()
    assert time.monotonic() - start < 10


def test_sigterm_stops_the_server_after_requests_in_flight_are_answered(app, config_class):
    # A hash takes most of a second, so that requests are in flight.
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
    assert ("GET", "/api/users/me", 200) in server.requests()
    assert ("GET", "/api/users", 400) in server.requests()
    assert token not in log
    assert PASSWORD not in log
    assert "alice" not in log


def test_a_header_of_8_kilobytes_is_refused_in_json(server):
    answer = server.request("GET", "/api/users", headers=bearer("x" * 8192))
    assert (answer.status, answer.json) == (401, {"error": "Unauthorized"})


def test_an_id_of_5000_digits_is_refused_in_json_and_such_a_page_is_the_last_one(server, register):
    register("alice")
    answer = server.request("GET", f"/api/users/{'9' * 5000}", headers=basic("alice"))
    assert (answer.status, answer.json["error"]) == (404, "Not Found")
    answer = server.request("GET", f"/api/users?page={'9' * 5000}", headers=basic("alice"))
    assert (answer.status, answer.json["items"]) == (200, [])
    assert answer.json["_meta"]["page"] == 2**31 - 1


def test_no_line_can_be_forged_in_the_log(server):
    token = tokens.make()
    server.request("GET", "/x%0a127.0.0.1%20%22GET%20/forged%22%20200%1b[2J")
    server.request("GET", f"/api/users/{token}")
    server.stop()
    assert server.requests() == [
        ("GET", "/x%0A127.0.0.1%20%22GET%20/forged%22%20200%1B%5B2J", 404),
        ("GET", "/api/users/mbl_...", 404),
    ]
    assert len(server.output) == 2


def raw(server, text, *, half_close=False):
    """Send a text as it is; return the head and the body of what comes until the end."""
    with server.connect(timeout=30) as connection:
        connection.sendall(text.encode("latin-1"))
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read().decode()
    head, _, body = answer.partition("\r\n\r\n")
    return head, body


GET = "GET /api/users HTTP/1.1\r\nHost: x\r\n"
POST = "POST /api/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET + "Authorization Bearer {token}\r\n\r\n", 400),
        (GET + "Authorization: Bearer \x01{token}\r\n\r\n", 400),
        ("GET {token}\r\n\r\n", 400),
        ("GET / HTTP/9.9{token}\r\n\r\n", 400),
        ("GET /?{token}" + "x" * 70_000 + " HTTP/1.1\r\n\r\n", 414),
        (GET + "{token}: " + "x" * 140_000 + "\r\n\r\n", 431),
        (GET + "".join(f"{{token}}{number}: x\r\n" for number in range(120)) + "\r\n", 431),
        (POST + "Transfer-Encoding: {token}\r\n\r\n", 400),
        (POST + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{token}", 400),
        (POST + "Content-Length: +2\r\n\r\n{token}", 400),
    ],
)
def test_invalid_http_is_refused_without_a_word_and_not_logged(new_server, request_, status):
    head, body = raw(new_server, request_.replace("{token}", tokens.make()))
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert body == ""
    assert "mbl_" not in head
    new_server.stop()
    assert new_server.output == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /?{token}" + "x" * 9000 + " HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (GET + "{token}: " + "x" * 17_000 + "\r\n\r\n", 431),
        (GET + "Host: {token}\r\n\r\n", 400),
        ("GET /{token} HTTP/1.1\r\n\r\n", 400),
        (POST + "Transfer-Encoding: {token}, chunked\r\n\r\n0\r\n\r\n", 501),
        ("{token} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    ],
)
def test_what_is_not_meant_for_the_application_is_refused_in_json(new_server, request_, status):
    head, body = raw(new_server, request_.replace("{token}", tokens.make()))
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "content-type: application/json" in head
    assert set(json.loads(body)) == {"error", "message"}
    new_server.stop()
    (line,) = new_server.log()
    assert (line["event"], line["status"]) == ("request", status)
    assert not re.search("mbl_[0-9A-Za-z]", "".join(new_server.output))


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
    ],
)
def test_no_second_request_is_smuggled_in_a_body_with_two_lengths(new_server, framing):
    head, _ = raw(
        new_server, f"{POST}{framing}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert head.startswith("HTTP/1.1 400 ")
    new_server.stop()
    assert new_server.requests() == [("POST", "/api/users", 400)]


def test_no_header_with_an_underscore_passes_for_one_with_a_dash(tmp_path):
    with Server(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", TRUSTED_PROXIES="1") as server:
        raw(server, f"{GET}X_Forwarded_For: 203.0.113.9\r\nConnection: close\r\n\r\n")
        raw(server, f"{GET}X-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n")
        server.stop()
    assert [line["source"] for line in server.log()] == ["127.0.0.1", "203.0.113.7"]


def test_a_body_that_is_announced_too_large_is_413_before_it_is_sent(new_server):
    head, _ = raw(new_server, f"{POST}Expect: 100-continue\r\nContent-Length: 65537\r\n\r\n")
    assert head.startswith("HTTP/1.1 413 ")
    body = '{"username": 1}' + " " * (65536 - 15)
    request = f"{POST}Expect: 100-continue\r\nConnection: close\r\nContent-Length: 65536\r\n\r\n"
    head, rest = raw(new_server, request + body)
    assert head == "HTTP/1.1 100 Continue"
    assert rest.startswith("HTTP/1.1 400 ")


def test_connections_are_kept_and_requests_may_follow_each_other_at_once(new_server):
    head, rest = raw(new_server, f"{GET}\r\n{GET}\r\n{GET}Connection: close\r\n\r\n")
    assert head.startswith("HTTP/1.1 401 ")
    assert rest.count("HTTP/1.1 401 ") == 2
    head, _ = raw(new_server, "GET /api/users HTTP/1.0\r\n\r\n")
    assert head.startswith("HTTP/1.0 401 ")
    head, body = raw(
        new_server, "HEAD /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert int(re.search(r"content-length: (\d+)", head)[1]) > 10_000
    assert body == ""


def chunked(server, *chunks, path="/api/users", content_type="application/json"):
    """Send a chunked request with these raw chunks; return the raw answer."""
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
    assert '"error": "Bad Request"' in answer


@pytest.mark.parametrize(
    ("framing", "status"),
    [("Transfer-Encoding: chunked", 400), ("Content-Length: 100", 400)],
)
def test_a_form_with_invalid_framing_revokes_no_token_and_is_not_logged(
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
    head, body = raw(server, POST + "Content-Length: 100\r\n\r\n{}", half_close=True)
    assert head.startswith("HTTP/1.1 400 ")
    assert json.loads(body)["message"] == "the body does not arrive as it was announced"


@pytest.mark.parametrize("header", ["SCRIPT_NAME", "Script-Name", "X-Script-Name"])
def test_no_header_changes_the_path_of_the_application(server, header):
    answer = server.request("GET", "/evil/api/users", headers={header: "/evil"})
    assert (answer.status, answer.json["error"]) == (404, "Not Found")
    answer = server.request(
        "POST", "/api/users", headers={header: "/evil"}, json_body=json_of("alice")
    )
    assert answer.headers["Location"] == answer.json["_links"]["self"]
    assert answer.headers["Location"].startswith("/api/users/")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_stops_them_with_status_0(new_server, number):
    os.killpg(new_server.process.pid, number)  # as a terminal does for Ctrl-C
    assert new_server.process.wait(timeout=40) == 0
    assert new_server.log() == []


@pytest.fixture
def two_workers(tmp_path):
    uri = f"sqlite:///{tmp_path}/app.db"
    settings = {"WEB_CONCURRENCY": "2", "REDIS_URL": "redis://127.0.0.1:1/0"}
    with Server(DATABASE_URL=uri, **settings) as server:
        until(lambda: len(server.workers()) == 2)
        yield server


def test_a_process_that_dies_is_replaced(two_workers):
    first, second = two_workers.workers()
    os.kill(first, signal.SIGKILL)
    until(lambda: len(set(two_workers.workers()) - {first}) == 2)
    assert second in two_workers.workers()
    for _ in range(20):
        assert two_workers.request("GET", "/api/users").status == 401
    assert two_workers.stop() == 0


def test_no_process_outlives_the_one_that_started_it(two_workers):
    workers = two_workers.workers()
    two_workers.process.kill()
    two_workers.process.wait()
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def test_sighup_replaces_the_processes_and_fails_no_request(new_server):
    before = new_server.workers()
    done = threading.Event()
    statuses = []

    def ask():
        while not done.is_set():
            statuses.append(new_server.request("GET", "/api/users").status)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    new_server.process.send_signal(signal.SIGHUP)
    until(lambda: new_server.workers() and not set(before) & set(new_server.workers()))
    done.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {401}
    assert new_server.stop() == 0


def test_a_short_secret_key_is_reported_after_the_address(config_class, app):
    uri = config_class.SQLALCHEMY_DATABASE_URI
    with Server(DATABASE_URL=uri, SECRET_KEY="short") as server:
        server.stop()
    line = server.log()[0]
    assert line["level"] == "WARNING"
    assert line["message"].startswith("SECRET_KEY is short")
    assert "docs/settings.md has a command" in line["message"]


def test_a_misspelled_setting_and_a_redis_that_is_away_are_named_after_the_address(tmp_path):
    with Server(
        DATABASE_URL=f"sqlite:///{tmp_path}/app.db",
        TOKEN_LIFETIME_SECOND="5",
        REDIS_URL="redis://127.0.0.1:1/0",
        WEB_CONCURRENCY="2",
    ) as server:
        assert server.request("POST", "/api/tokens", headers=basic("nobody")).status == 401
        server.stop()
    # That of Redis from each process that asks it.
    warnings = {line["message"] for line in server.log() if line.get("level") == "WARNING"}
    spelling, redis = sorted(warnings, reverse=True)
    assert (
        spelling == "TOKEN_LIFETIME_SECOND is not a setting; did you mean TOKEN_LIFETIME_SECONDS?"
    )
    assert redis.startswith("REDIS_URL: Redis does not answer; ")
    assert "127.0.0.1:1" in redis


@pytest.mark.parametrize("name", ["PORT", "DATABASE_URL"])
def test_an_invalid_setting_stops_the_start_with_the_reason(name):
    process = boot(**{name: "nonsense"})
    assert process.returncode == 1
    assert process.stderr.startswith(f"{name}: must ")
    assert process.stderr.count("\n") == 1
    assert process.stdout == ""


@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5"])
def test_a_wrong_number_of_processes_is_one_line(value):
    process = boot(WEB_CONCURRENCY=value)
    text = "WEB_CONCURRENCY: must be a whole number from 1 to 1024 (processes)\n"
    assert (process.returncode, process.stderr, process.stdout) == (1, text, "")


def test_an_empty_number_of_processes_is_the_default(tmp_path):
    with Server(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", WEB_CONCURRENCY="") as server:
        assert server.request("GET", "/api/users").status == 401


def test_the_server_alone_says_what_is_wrong_with_a_setting():
    process = subprocess.run(
        [sys.executable, "server.py"],
        cwd=ROOT,
        env={**os.environ, "HOST": "", "WEB_THREADS": "0", "PORT": "http"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 1
    assert [line.partition(":")[0] for line in process.stderr.splitlines()] == [
        "PORT",
        "WEB_THREADS",
    ]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url):
    process = boot(DATABASE_URL=url)
    assert process.returncode == 1
    assert process.stderr == (
        "DATABASE_URL: must be a file or PostgreSQL; in memory, each process has its own data\n"
    )


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_a_port_in_use_is_one_line_at_once(tmp_path, host, shown):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as other:
        port = other.getsockname()[1]
        process = boot(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", HOST=host, PORT=str(port))
    text = f"cannot listen on {shown}:{port}: Address already in use\n"
    assert (process.returncode, process.stderr, process.stdout) == (1, text, "")


def test_a_host_that_is_unknown_is_one_line(tmp_path):
    process = boot(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", HOST="no.such.host.invalid")
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("cannot listen on no.such.host.invalid:0: ")
    assert process.stderr.count("\n") == 1


@pytest.fixture
def tls(tmp_path):
    return make_certificate(tmp_path)


def test_with_a_certificate_the_server_speaks_tls(tmp_path, tls):
    certificate, key = tls
    with Server(
        DATABASE_URL=f"sqlite:///{tmp_path}/app.db",
        TLS_CERTIFICATE=str(certificate),
        TLS_KEY=str(key),
    ) as server:
        assert server.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=certificate)
        address = urlsplit(server.url)
        with server.connect(timeout=30) as silent:  # in the middle of a handshake
            silent.sendall(b"\x16")
            connection = http.client.HTTPSConnection(address.netloc, context=context, timeout=30)
            connection.request("GET", "/api/users")
            answer = connection.getresponse()
            assert answer.status == 401
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
            connection.close()
        assert server.stop() == 0


def serial_of(server):
    """Return the serial number of the certificate that a new connection gets."""
    address = urlsplit(server.url)
    pem = ssl.get_server_certificate((address.hostname, address.port), timeout=30)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def next_worker(server, former):
    """Return the process that has taken the place of another, once that is gone."""
    deadline = time.monotonic() + 30
    while former in server.workers() or not server.workers():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)  # until it listens
    (worker,) = server.workers()
    return worker


def test_sighup_renews_the_certificate_and_refuses_one_that_cannot_be_used(tmp_path, tls):
    certificate, key = tls
    with Server(
        DATABASE_URL=f"sqlite:///{tmp_path}/app.db",
        TLS_CERTIFICATE=str(certificate),
        TLS_KEY=str(key),
    ) as server:
        assert serial_of(server) == 1
        (worker,) = server.workers()

        former = certificate.read_bytes()
        make_certificate(tmp_path, serial=2)
        new = certificate.read_bytes()
        certificate.write_bytes(former)  # with the new key
        server.process.send_signal(signal.SIGHUP)
        time.sleep(5)
        assert (serial_of(server), server.workers()) == (1, [worker])
        os.kill(worker, signal.SIGKILL)
        worker = next_worker(server, worker)
        assert serial_of(server) == 1

        certificate.write_bytes(new)
        server.process.send_signal(signal.SIGHUP)
        next_worker(server, worker)
        assert serial_of(server) == 2
        assert server.stop() == 0
    said = "SIGHUP has no effect: TLS_CERTIFICATE, TLS_KEY: not a certificate"
    assert any(line["message"].startswith(said) for line in server.log())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"TLS_KEY": "key"}, "TLS_CERTIFICATE: is missing; "),
        ({"TLS_CERTIFICATE": "certificate"}, "TLS_KEY: is missing; "),
        ({"TLS_CERTIFICATE": "nowhere", "TLS_KEY": "key"}, "TLS_CERTIFICATE: cannot read "),
        ({"TLS_CERTIFICATE": "certificate", "TLS_KEY": "nowhere"}, "TLS_KEY: cannot read "),
        ({"TLS_CERTIFICATE": "key", "TLS_KEY": "key"}, "TLS_CERTIFICATE, TLS_KEY: not a cert"),
        ({"TLS_CERTIFICATE": "certificate", "TLS_KEY": "other"}, "TLS_CERTIFICATE, TLS_KEY: not"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path, tls, settings, text):
    certificate, key = tls
    (tmp_path / "other").write_text("no key")
    paths = {"certificate": certificate, "key": key}
    settings = {name: str(paths.get(value, tmp_path / value)) for name, value in settings.items()}
    process = boot(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", **settings)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith(text)
    assert process.stderr.count("\n") == 1


def test_a_key_that_the_server_cannot_use_is_one_line(tmp_path):
    certificate, key = make_certificate(tmp_path, curve=ec.SECP521R1)
    settings = {"TLS_CERTIFICATE": str(certificate), "TLS_KEY": str(key)}
    process = boot(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", **settings)
    assert (process.returncode, process.stdout) == (1, "")
    assert "the key is none of RSA" in process.stderr
    assert process.stderr.count("\n") == 1


def test_a_database_that_cannot_be_opened_stops_the_start_with_the_reason():
    process = boot(DATABASE_URL="sqlite:////nowhere/app.db")
    assert process.returncode != 0
    assert process.stderr == "Error: cannot create /nowhere/app.db: No such file or directory\n"


def test_a_failing_migration_stops_the_start_with_the_reason(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    with engine.begin() as connection:
        connection.execute(sa.text('CREATE TABLE "user" (id INTEGER)'))
    engine.dispose()
    process = boot(DATABASE_URL=f"sqlite:///{tmp_path}/app.db")
    assert process.returncode != 0
    assert "table user already exists" in process.stderr
    assert process.stdout == ""


@pytest.mark.skipif(not TEST_DATABASE_URL, reason="needs PostgreSQL")
def test_a_refused_postgresql_connection_stops_the_start_with_the_reason():
    url = sa.make_url(database_uri(TEST_DATABASE_URL)).set(database="no_such_database")
    process = boot(DATABASE_URL=url.render_as_string(hide_password=False))
    assert process.returncode != 0
    assert '"no_such_database" does not exist' in process.stderr
    assert "Traceback" not in process.stderr


def test_the_start_waits_for_a_database_that_does_not_answer_yet():
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
