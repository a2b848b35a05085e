"""Slow clients, without a proxy, cannot stop the server: they get connections, but no threads."""

import http.client
import json
import re
import resource
import socket
import statistics
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.helpers import Server, basic, bearer

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # measures how long answers take

SECONDS = 8  # for which an attack lasts
POST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nContent-Type: %s\r\n\r\n"
FORM = POST % (b"/api/tokens/revoke", b"application/x-www-form-urlencoded")
JSON = POST % (b"/api/users", b"application/json")
HEADERS = b"GET /api/users HTTP/1.1\r\nHost: x\r\nX-Long: "
LARGE = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"


def send_a_byte(connection):
    connection.send(b"x")


def read_100_bytes(connection):
    connection.recv(100)


# Number of clients, what each sends at once, seconds between steps, and what a step is.
ATTACKS = {
    "idle": (1000, b"", 1, lambda _: None),
    "headers": (500, HEADERS, 2, send_a_byte),
    "json": (500, JSON, 2, send_a_byte),
    "form": (500, FORM, 2, send_a_byte),
    "readers": (200, LARGE * 10, 1, read_100_bytes),
}


@pytest.fixture(autouse=True)
def many_files():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def client(server, start):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.settimeout(10)
    address = urlsplit(server.url)
    connection.connect((address.hostname, address.port))
    connection.sendall(start)
    return connection


def attack(server, count, start, pause, step):
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connections.append(stack.enter_context(client(server, start)))
            time.sleep(0.003)  # slow clients, no flood of requests
        for connection in connections:
            connection.setblocking(False)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for connection in connections:
                with suppress(OSError):  # the server has dropped it
                    step(connection)
            time.sleep(pause)


class Ordinary(threading.Thread):
    """A client that asks ten times a second."""

    def __init__(self, server, headers, *, keep):
        super().__init__()
        self.server, self.headers, self.keep = server, headers, keep
        self.seconds, self.failures = [], []
        self.done = threading.Event()

    def run(self):
        connection = None
        while not self.done.is_set():
            start = time.perf_counter()
            try:
                if connection is None or not self.keep:
                    netloc = urlsplit(self.server.url).netloc
                    connection = http.client.HTTPConnection(netloc, timeout=10)
                connection.request("GET", "/api/users/me", headers=self.headers)
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.failures.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
                connection = None
            self.seconds.append(time.perf_counter() - start)
            if connection is not None and not self.keep:
                connection.close()
            self.done.wait(max(0, start + 0.1 - time.perf_counter()))
        if connection is not None:
            connection.close()


def resident_mib(server):
    """Return the resident memory of all processes of the server."""
    statuses = [Path(f"/proc/{id}/status") for id in [server.process.pid, *server.workers()]]
    return sum(int(re.search(r"VmRSS:\s+(\d+)", path.read_text())[1]) for path in statuses) // 1024


def held(server):
    """Return the numbers of threads and of open files of the processes that serve."""
    processes = [Path(f"/proc/{worker}") for worker in server.workers()]
    return [
        sum(len(list((path / what).iterdir())) for path in processes) for what in ("task", "fd")
    ]


@pytest.mark.parametrize("name", ATTACKS)
def test_slow_clients_delay_nobody_and_leave_nothing(server, register, capsys, name):
    register("alice")
    token = server.request("POST", "/api/tokens", headers=basic("alice")).json["token"]
    for path in ["/docs/swagger-ui-bundle.js", "/openapi.json", "/api/users/me"] * 5:
        server.request("GET", path, headers=bearer(token))
    before, (threads, files) = resident_mib(server), held(server)
    clients = [Ordinary(server, bearer(token), keep=keep) for keep in (False, True)]
    for asker in clients:
        asker.start()
    attack(server, *ATTACKS[name])
    for asker in clients:
        asker.done.set()
        asker.join()
    seconds = [each for asker in clients for each in asker.seconds]
    p99 = statistics.quantiles(seconds, n=100)[98]

    def is_over():
        threads_now, files_now = held(server)
        # The threads that read files end after 10 s; the pool has up to 20 connections to
        # the database, of SQLite with three files each.
        few = threads_now <= threads and files_now <= files + 60
        return few and resident_mib(server) <= before * 1.2

    end = time.monotonic() + 45
    while not is_over() and time.monotonic() < end:
        time.sleep(1)
    after = resident_mib(server)
    with capsys.disabled():
        print(
            f"\n{ATTACKS[name][0]} slow clients ({name}): {len(seconds)} requests, p99 "
            f"{p99 * 1000:.0f} ms; {before} MiB before, {after} MiB after"
        )
    assert [asker.failures for asker in clients] == [[], []]
    assert len(seconds) > SECONDS * 10
    assert p99 < 0.25
    assert is_over(), (held(server), threads, files)


def test_a_slow_client_loses_its_connection(new_server):
    starts = [b"", HEADERS, JSON, FORM]
    files = held(new_server)[1]
    with ExitStack() as stack:
        idle, headers, *bodies = [
            stack.enter_context(client(new_server, start)) for start in starts
        ]
        stalled = stack.enter_context(client(new_server, LARGE * 10))
        begin = time.monotonic()
        for connection in (idle, headers):
            connection.settimeout(30)
            assert connection.recv(1) == b""
        for connection in bodies:
            connection.settimeout(30)
            answer = connection.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error", "message"}
        assert 15 < time.monotonic() - begin < 25
        while held(new_server)[1] > files:  # the stalled connection, and its file
            assert time.monotonic() - begin < 60
            time.sleep(0.5)
        assert stalled.fileno() >= 0
    new_server.stop()
    assert [status for *_, status in new_server.requests()] == [200, 408, 408]


def test_clients_beyond_the_limit_of_open_files_wait(tmp_path):
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path}/app.db"}
    with Server(**settings) as server:
        worker = server.workers()[0]
        soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        assert soft >= min(hard, 16_384 + 256)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        Server(command=["bash", "-c", "ulimit -n 400; exec ./boot.sh"], **settings) as server,
        ExitStack() as stack,
    ):
        idle = [stack.enter_context(client(server, b"")) for _ in range(500)]
        assert server.request("GET", "/api/users", timeout=90).status == 401
        assert len(idle) == 500
        server.stop()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits
    assert server.requests() == [("GET", "/api/users", 401)]
