"""A server that stops, or replaces its processes, fails no request."""

import http.client
import os
import signal
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.helpers import Server, until

pytestmark = pytest.mark.alone  # connects in the moment in which a socket is closed

CLIENTS = 16


class Clients:
    """Threads that send requests all the time: on new connections, or on kept ones.

    A refused connection ends a client: nobody listens, and nothing is lost.
    """

    def __init__(self, url, *, keep, method="GET"):
        self.netloc = urlsplit(url).netloc
        self.keep, self.method = keep, method
        self.statuses, self.failures = [], []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_):
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self):
        connection = None
        while not self._done.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self.netloc, timeout=20)
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                # A log in without credentials: 401, and it has a body.
                connection.request(self.method, "/api/tokens", body=b"{}")
                answer = connection.getresponse()
                answer.read()
                self.statuses.append(answer.status)
                is_kept = self.keep and answer.headers["Connection"] != "close"
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                is_kept = False
            if not is_kept:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


@pytest.fixture(params=[1, 2])
def draining(tmp_path, request):
    uri = f"sqlite:///{tmp_path}/app.db"
    settings = {"WEB_CONCURRENCY": str(request.param), "REDIS_URL": "redis://127.0.0.1:6379/9"}
    with Server(DATABASE_URL=uri, DRAIN_SECONDS="1", **settings) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True], ids=["new connections", "kept connections"])
def test_a_stop_under_load_fails_no_request(draining, keep):
    with Clients(draining.url, keep=keep, method="POST") as clients:
        assert draining.stop() == 0
    assert clients.failures == []
    assert set(clients.statuses) == {401}


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True], ids=["new connections", "kept connections"])
def test_replacing_the_processes_under_load_fails_no_request(draining, keep):
    with Clients(draining.url, keep=keep, method="POST") as clients:
        for _ in range(2):
            before = set(draining.workers())
            draining.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 30
            while before & set(draining.workers()):
                assert time.monotonic() < end
                time.sleep(0.1)
    assert clients.failures == []
    assert set(clients.statuses) == {401}
    assert draining.stop() == 0


@pytest.mark.slow
def test_a_process_that_dies_loses_no_connection_that_waits(draining):
    """Those that it has accepted are lost with it."""
    connections = []
    workers = draining.workers()
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
        while ") T " not in Path(f"/proc/{worker}/stat").read_text():
            time.sleep(0.01)
    for _ in range(20):
        connection = http.client.HTTPConnection(urlsplit(draining.url).netloc, timeout=20)
        connection.request("GET", "/api/users")
        connections.append(connection)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert {connection.getresponse().status for connection in connections} == {401}
    for connection in connections:
        connection.close()


@pytest.mark.slow
def test_a_server_that_drains_serves_until_the_time_is_over_or_a_second_signal(tmp_path):
    with Server(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", DRAIN_SECONDS="60") as server:
        server.process.terminate()
        time.sleep(0.5)
        answer = server.request("GET", "/api/users")
        assert (answer.status, answer.headers["Connection"]) == (401, "close")
        server.process.terminate()
        assert server.process.wait(timeout=10) == 0


@pytest.mark.slow
def test_ctrl_c_does_not_drain(tmp_path):
    with Server(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", DRAIN_SECONDS="60") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=10) == 0


@pytest.mark.slow
def test_a_process_that_dies_while_it_is_replaced_ends_nothing(tmp_path):
    with Server(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", DRAIN_SECONDS="2") as server:
        (old,) = server.workers()
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.workers()) == 2)
        os.kill(old, signal.SIGKILL)
        time.sleep(4)  # the replacement is complete
        assert server.process.poll() is None
        assert server.request("GET", "/api/users").status == 401
        assert server.stop() == 0
    assert [line for line in server.log() if line.get("level") == "ERROR"] == []
