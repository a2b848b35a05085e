"""How many cores a number of requests per second takes, and what the first limit is.

    python -m benchmarks.scale [seconds]

Measures, for each kind of request, the CPU time of the application and of PostgreSQL, each
with a server of its own on this machine; then calculates. CPU time hardly depends on what else
runs. Prints the tables of docs/scale.md.
"""

import argparse
import http.client
import itertools
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.helpers import PASSWORD, Server, basic, bearer
from tests.services import PostgreSQL, children

CLIENTS = 8
SUCCESS, BUSY = {200, 201}, 503
USERS = 1000
TICKS = os.sysconf("SC_CLK_TCK")
# What a service does whose users log in once a day and ask 200 times meanwhile.
MIX = {
    "whose token (`GET /api/users/me`)": 0.85,
    "a page of 10 (`GET /api/users`)": 0.10,
    "a write (`PUT /api/users/1`)": 0.045,
    "a log in (`POST /api/tokens`)": 0.005,
}
RATES = [1_000, 10_000, 100_000]
# Of the capacity, above which requests wait for each other (M/M/c with 8 cores: at 70 %
# utilisation every fourth request waits, at 90 % most do).
UTILISATION = 0.7
CONNECTIONS = 20  # of each process to PostgreSQL
# Commits per second of one server, each with a flush of the write-ahead log: an SSD with a
# protected cache flushes in 0.1 ms, and PostgreSQL flushes for several commits at once.
COMMITS = 20_000
# What one server of PostgreSQL has at most in machines that can be rented today.
MOST_CORES = 128


class Cost(NamedTuple):
    """Of one request, in microseconds of CPU."""

    application: float
    postgresql: float


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, nargs="?", default=8)
    seconds = parser.parse_args().seconds
    settings = {
        "SECRET_KEY": "the key of this measurement, and of nothing else",
        "LOGIN_LIMIT_PER_SOURCE": "1000000 per hour",
        "REGISTRATION_LIMIT_PER_SOURCE": "1000000 per hour",
    }
    with PostgreSQL() as postgresql, Server(DATABASE_URL=postgresql.url, **settings) as server:
        for number in range(USERS // 20):
            register(server, number)
        token = server.request("POST", "/api/tokens", headers=basic("user0")).json["token"]
        measured = {
            kind: measure(server, postgresql, request, seconds)
            for kind, request in zip(MIX, requests_with(token), strict=True)
        }
    print_costs(measured)
    print_cores(measured)


def register(server, number):
    name = f"user{number}"
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    assert server.request("POST", "/api/users", json_body=body).status in SUCCESS


def requests_with(token):
    """Return method, path, headers and body for each kind of `MIX`."""
    with_token = bearer(token)
    with_body = with_token | {"Content-Type": "application/json"}
    yield "GET", "/api/users/me", with_token, None
    yield "GET", "/api/users", with_token, None
    yield "PUT", "/api/users/1", with_body, '{"about_me": "Down the rabbit hole"}'
    yield "POST", "/api/tokens", basic("user0"), None


def measure(server, postgresql, request, seconds):
    processes = {"application": server.process.pid, "postgresql": postgresql.process.pid}
    netloc = urlsplit(server.url).netloc
    done = threading.Event()
    counts = itertools.count()

    def ask():
        method, path, headers, body = request
        connection = http.client.HTTPConnection(netloc)
        while not done.is_set():
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status in SUCCESS:
                next(counts)
            else:  # no hasher was free; the time that it took counts all the same
                assert answer.status == BUSY, answer.status
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    before = {name: cpu_seconds(pid) for name, pid in processes.items()}
    first = next(counts)
    time.sleep(seconds)
    after = {name: cpu_seconds(pid) for name, pid in processes.items()}
    answered = next(counts) - first - 1
    done.set()
    for thread in threads:
        thread.join()
    return Cost(**{name: (after[name] - before[name]) / answered * 1e6 for name in processes})


def cpu_seconds(pid):
    """Return what a process and all below it have used, ended ones included."""
    ticks = 0
    for each in [pid, *children(pid)]:
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / TICKS


def print_costs(measured):
    print("| request | application | PostgreSQL | requests/s of one core |")
    print("|---|--:|--:|--:|")
    for kind, cost in measured.items():
        per_core = 1e6 / cost.application
        print(f"| {kind} | {cost.application:,.0f} | {cost.postgresql:,.0f} | {per_core:,.0f} |")
    mean = mean_of(measured)
    per_core = 1e6 / mean.application
    print(f"| the mix | {mean.application:,.0f} | {mean.postgresql:,.0f} | {per_core:,.0f} |\n")


def mean_of(measured):
    return Cost(*(sum(MIX[kind] * cost[i] for kind, cost in measured.items()) for i in range(2)))


def print_cores(measured):
    mean = mean_of(measured)
    writes = sum(MIX[kind] for kind in list(MIX)[2:])
    print("| requests/s | cores, application | cores, PostgreSQL | connections | commits/s |")
    print("|--:|--:|--:|--:|--:|")
    for rate in RATES:
        application, database = (cost * rate / 1e6 / UTILISATION for cost in mean)
        processes = max(2, application)
        print(
            f"| {rate:,} | {application:,.1f} | {database:,.1f} | "
            f"{processes * CONNECTIONS:,.0f} | {rate * writes:,.0f} |"
        )
    limits = {
        f"PostgreSQL has {MOST_CORES} cores": MOST_CORES * UTILISATION / mean.postgresql * 1e6,
        f"PostgreSQL commits {COMMITS:,} times a second": COMMITS / writes,
    }
    print()
    for text, rate in sorted(limits.items(), key=lambda item: item[1]):
        print(f"- {text}: {rate:,.0f} requests/s")


if __name__ == "__main__":
    main()
