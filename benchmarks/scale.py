"""How many cores a number of requests per second takes, and what the first limit is.

    python -m benchmarks.scale [seconds] [--not-pinned]

Measures, for each kind of request, the CPU time of the application and of PostgreSQL, and how
many requests per second one node and two nodes answer; then calculates. All runs on this
machine: each node is one process, on a core of its own unless `--not-pinned`; PostgreSQL and
the clients are on all cores. Prints the tables of docs/scale.md. Needs `apt install wrk`.
"""

import argparse
import os
import re
import subprocess
import tempfile
import time
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from tests.helpers import PASSWORD, Server, basic, bearer
from tests.services import PostgreSQL, children

CONNECTIONS = 32  # of the clients to all nodes
ROUNDS = 3
USERS = 50
TICKS = os.sysconf("SC_CLK_TCK")
TOKEN, PAGE, WRITE, LOG_IN = (
    "whose token (`GET /api/users/me`)",
    "a page of 10 (`GET /api/users`)",
    "a write (`PUT /api/users/1`)",
    "a log in (`POST /api/tokens`)",
)
# What a service does whose users log in once a day and ask 200 times meanwhile.
ALL = "the mix"
MIX = {TOKEN: 0.85, PAGE: 0.10, WRITE: 0.045, LOG_IN: 0.005}
RATES = [1_000, 10_000, 100_000]
# Of the capacity, above which requests wait for each other (M/M/c with 8 cores: at 70 %
# utilisation every fourth request waits, at 90 % most do).
UTILISATION = 0.7
POOL = 20  # connections of each process to PostgreSQL
# Commits per second of one server, each with a flush of the write-ahead log: an SSD with a
# protected cache flushes in 0.1 ms, and PostgreSQL flushes for several commits at once.
COMMITS = 20_000
# What one server of PostgreSQL has at most in machines that can be rented today.
MOST_CORES = 128


class Measured(NamedTuple):
    """Of some seconds of load: requests per second, and seconds of CPU per second of each."""

    rate: float
    application: float
    postgresql: float
    clients: float

    def cost(self):
        return Cost(self.application / self.rate * 1e6, self.postgresql / self.rate * 1e6)


class Cost(NamedTuple):
    """Of one request, in microseconds of CPU."""

    application: float
    postgresql: float


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, nargs="?", default=8)
    parser.add_argument("--not-pinned", action="store_true", help="to a core")
    options = parser.parse_args()
    settings = {
        "SECRET_KEY": "the key of this measurement, and of nothing else",
        "LOGIN_LIMIT_PER_SOURCE": "1000000 per hour",
        "REGISTRATION_LIMIT_PER_SOURCE": "1000000 per hour",
        "WEB_CONCURRENCY": "1",
    }
    with ExitStack() as stack:
        postgresql = stack.enter_context(PostgreSQL())
        settings["DATABASE_URL"] = postgresql.url
        nodes = [
            stack.enter_context(Server(command=(*pinned, "./boot.sh"), **settings))
            for pinned in ([(), ()] if options.not_pinned else [on_core(0), on_core(1)])
        ]
        for number in range(USERS):
            register(nodes[0], f"user{number}")
        token = nodes[0].request("POST", "/api/tokens", headers=basic("user0")).json["token"]
        requests = requests_with(token)
        shares = {kind: {request: 1.0} for kind, request in requests.items()}
        shares[ALL] = {request: MIX[kind] for kind, request in requests.items()}
        by_one, by_two = {}, {}
        for kind, mixed in shares.items():
            # In turns, so that both meet the same noise.
            rounds = [
                [measure(used, postgresql, mixed, options.seconds) for used in (nodes[:1], nodes)]
                for _ in range(ROUNDS)
            ]
            by_one[kind], by_two[kind] = (
                sorted(column)[ROUNDS // 2] for column in zip(*rounds, strict=True)
            )
    costs = {kind: by_one[kind].cost() for kind in MIX}
    print_costs(costs)
    print_nodes(by_one, by_two)
    print_cores(costs)


def on_core(number):
    return "taskset", "-c", str(number)


def register(node, name):
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    answer = node.request("POST", "/api/users", json_body=body)
    assert answer.status == HTTPStatus.CREATED, answer.json


def requests_with(token):
    """Return a request for each kind of `MIX`."""
    with_token = bearer(token)
    with_body = with_token | {"Content-Type": "application/json"}
    return {
        TOKEN: lua("GET", "/api/users/me", with_token),
        PAGE: lua("GET", "/api/users", with_token),
        WRITE: lua("PUT", "/api/users/1", with_body, '{"about_me": "Down the rabbit hole"}'),
        LOG_IN: lua("POST", "/api/tokens", basic("user0")),
    }


def lua(method, path, headers, body=""):
    """Return a request as an expression in the scripts of wrk."""
    pairs = ", ".join(f"[{name!r}] = {value!r}" for name, value in headers.items())
    return f"wrk.format({method!r}, {path!r}, {{{pairs}}}, {body!r})"


def measure(nodes, postgresql, shares, seconds):
    pids = {"application": [node.process.pid for node in nodes]}
    pids["postgresql"] = [postgresql.process.pid]
    before = {name: sum(map(cpu_seconds, each)) for name, each in pids.items()}
    began, clients_before = time.monotonic(), os.times()
    answered = load(nodes, shares, seconds)
    passed, clients_after = time.monotonic() - began, os.times()
    used = {name: sum(map(cpu_seconds, each)) - before[name] for name, each in pids.items()}
    used["clients"] = sum(clients_after[2:4]) - sum(clients_before[2:4])
    return Measured(answered / passed, **{name: each / passed for name, each in used.items()})


def load(nodes, shares, seconds):
    """Send requests to all nodes at once, by their shares; return how many were answered."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "requests.lua")
        lines = ["request = function()", "    local chance = math.random()"]
        for request, share in shares.items():
            lines.append(f"    chance = chance - {share}")
            lines.append(f"    if chance < 0 then return {request} end")
        script.write_text("\n".join([*lines, f"    return {request}", "end"]))
        options = ["-t1", f"-c{CONNECTIONS // len(nodes)}", f"-d{seconds:.0f}s", "-s", script]
        clients = [
            subprocess.Popen(["wrk", *options, node.url], stdout=subprocess.PIPE, text=True)
            for node in nodes
        ]
        outputs = [client.communicate()[0] for client in clients]
    return sum(map(answers, outputs))


def answers(output):
    """Return how many requests succeeded: a log in gets 503 while every hasher is busy."""
    count = int(re.search(r"(\d+) requests in", output)[1])
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    return count - (int(failed[1]) if failed else 0)


def cpu_seconds(pid):
    """Return what a process and all below it have used, ended ones included."""
    ticks = 0
    for each in [pid, *children(pid)]:
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / TICKS


def print_costs(costs):
    print("| request | application | PostgreSQL | requests/s of one core |")
    print("|---|--:|--:|--:|")
    for kind, cost in [*costs.items(), (ALL, mean_of(costs))]:
        per_core = 1e6 / cost.application
        print(f"| {kind} | {cost.application:,.0f} | {cost.postgresql:,.0f} | {per_core:,.0f} |")


def print_nodes(by_one, by_two):
    print(
        "\n| request | one node | two nodes | ratio | cores: application | PostgreSQL | clients |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for kind, two in by_two.items():
        one = by_one[kind].rate
        print(
            f"| {kind} | {one:,.0f} | {two.rate:,.0f} | {two.rate / one:.2f} | "
            f"{two.application:.2f} | {two.postgresql:.2f} | {two.clients:.2f} |"
        )


def mean_of(costs):
    return Cost(*(sum(MIX[kind] * cost[i] for kind, cost in costs.items()) for i in range(2)))


def print_cores(costs):
    mean = mean_of(costs)
    writes = MIX[WRITE] + MIX[LOG_IN]
    print("\n| requests/s | cores, application | cores, PostgreSQL | connections | commits/s |")
    print("|--:|--:|--:|--:|--:|")
    for rate in RATES:
        application, database = (cost * rate / 1e6 / UTILISATION for cost in mean)
        connections = max(2, application) * POOL
        print(
            f"| {rate:,} | {application:,.1f} | {database:,.1f} | "
            f"{connections:,.0f} | {rate * writes:,.0f} |"
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
