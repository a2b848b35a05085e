"""What a flood of log ins does to those who come with a token, and to the server's memory.

    python -m benchmarks.flood [seconds]

Starts the server on a new SQLite database, with the settings of the environment.
Four clients ask for `GET /api/users/me`, first alone, then while 200 others log
in without pause, or after a second where they were told to come back. Prints how
long those with a token waited, and the memory of the server. Clients and server
share the machine: compare two settings, and not with other machines.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections import Counter

from tests.helpers import PASSWORD, Server, basic, bearer

USERS = 20
CLIENTS = 200
OK, BUSY = 200, 503


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "DATABASE_URL": f"sqlite:///{folder}/app.db",
            "SECRET_KEY": "the key of this measurement, and of nothing else",
        }
        with Server(**settings) as server:
            measure(server, seconds)


def measure(server, seconds):
    for number in range(USERS):
        name = f"user{number}"
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        server.request("POST", "/api/users", json_body=body)
    token = log_in(server, 0).json["token"]

    with Askers(server, token) as askers:
        time.sleep(seconds / 2)
    report("alone", askers, server)

    statuses = Counter()
    end = time.monotonic() + seconds

    def flood(number):
        while time.monotonic() < end:
            answer = log_in(server, number % USERS)
            statuses[answer.status] += 1
            if answer.status == BUSY:
                time.sleep(1)

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(CLIENTS)]
    with Askers(server, token) as askers:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report("flood", askers, server)
    print(f"log ins by status: {dict(statuses)}")


def log_in(server, number):
    return server.request("POST", "/api/tokens", headers=basic(f"user{number}"))


class Askers:
    """Four clients with a token, for as long as the block lasts."""

    def __init__(self, server, token):
        self.server, self.headers = server, bearer(token)
        self.milliseconds, self.statuses = [], Counter()
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(4)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        for thread in self.threads:
            thread.join()

    def ask(self):
        while not self.done.wait(0.01):
            start = time.perf_counter()
            answer = self.server.request("GET", "/api/users/me", headers=self.headers)
            self.milliseconds.append((time.perf_counter() - start) * 1000)
            self.statuses[answer.status] += 1


def report(name, askers, server):
    quantiles = statistics.quantiles(askers.milliseconds, n=100)
    print(
        f"{name}: {dict(askers.statuses)} with a token, median {quantiles[49]:.1f} ms, "
        f"p99 {quantiles[98]:.1f} ms; {server.memory_mib()} MiB"
    )


main()
