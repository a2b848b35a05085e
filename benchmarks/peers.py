"""What a request with a token costs here and elsewhere: CPU, round trips, requests per second.

    python -m benchmarks.peers [--peers jwt ours] [--databases sqlite] [--only in-process]

Installs each peer of `benchmarks/peer_apps/` in a virtual environment of its own, and
asks all of them in turns who the owner of a token is. In process: the least CPU time of
many rounds, in microseconds, and the round trips to PostgreSQL. Over the wire: the best
round of wrk, each peer on the server that is usual for it, with one process on the first
core; wrk runs on the others. Then two processes of this project against one, on all
cores. What uses wrk needs Linux and `apt install wrk util-linux`.

Makes databases called `benchmark_...` on the PostgreSQL server, and drops them. The plot
needs `pip install matplotlib`.
"""

import argparse
import math
import platform
import re
import shutil
import textwrap
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psycopg

from benchmarks.peer_apps.running import APPS, CORES, prepared, round_trips

# What `python -m` runs in the folder of a peer; WEB_CONCURRENCY has each start one process.
THREADS = "gunicorn -b 127.0.0.1:{port} --worker-class gthread --threads 64 peer:app"
TUTORIAL = "gunicorn -b :{port} --access-logfile - --error-logfile - peer:app"  # its boot.sh
UVICORN = "uvicorn --host 127.0.0.1 --port {port} peer:app"
OURS = "benchmarks.peer_apps.ours.serve"


class Peer(NamedTuple):
    title: str
    folder: str
    server: str = THREADS
    path: str = "/api/me"
    scheme: str = "Bearer"
    has_database: bool = True
    in_process: bool = True  # False: another peer is the same but for its server


STATELESS = "jwt"
PEERS = {
    "flask": Peer("Flask alone, no token", "bare_flask", has_database=False),
    STATELESS: Peer("flask-jwt-extended, stateless", "flask_jwt", has_database=False),
    "jwt-user": Peer("flask-jwt-extended, user look-up", "flask_jwt_user"),
    "tutorial": Peer("Mega-Tutorial", "tutorial"),
    "tutorial-boot": Peer("Mega-Tutorial, sync worker", "tutorial", TUTORIAL, in_process=False),
    "drf": Peer("DRF authtoken", "drf_authtoken", scheme="Token"),
    "knox": Peer("django-rest-knox", "knox", scheme="Token"),
    "fastapi-users": Peer("fastapi-users, database strategy", "fastapi_users", UVICORN),
    "ours": Peer("this project", "ours", OURS),
    "ours-whole": Peer("this project, GET /api/users/me", "ours", OURS, "/api/users/me"),
}
KINDS = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
PARTS = ["in-process", "wire", "processes"]
FIGURES = re.compile("<!-- figures -->.*<!-- end of figures -->", re.DOTALL)


def in_process(subjects, rounds):
    """`{(peer, database): microseconds}`, the least of the rounds."""
    figures = {}
    for _ in range(rounds):
        for subject in subjects:
            key = subject.name, subject.kind
            figures[key] = min(figures.get(key, math.inf), subject.microseconds())
    return figures


def over_the_wire(subjects, rounds):
    """`{(peer, database): (requests per second, p50, p99)}`, the best of the rounds."""
    figures = {}
    for _ in range(rounds):
        for subject in subjects:
            key = subject.name, subject.kind
            figures[key] = max(figures.get(key, (0,)), subject.load())
    return figures


def by_processes(subject, rounds):
    """`{processes: (requests per second, p50, p99)}`, the best of the rounds."""
    figures = dict.fromkeys((1, 2), (0,))
    for _ in range(rounds):
        for processes, best in figures.items():
            figures[processes] = max(best, subject.load(processes))
    return figures


def per_database(figures, kinds, write):
    """Return the rows of a table; `write(figure, figure of the stateless peer)` makes cells."""
    rows = {}
    for name in dict.fromkeys(name for name, _ in figures):
        row = rows[name] = [PEERS[name].title]
        for kind in kinds:
            # A peer without a database has been measured once.
            value, base = (
                figures.get((peer, kind), figures.get((peer, None))) for peer in (name, STATELESS)
            )
            row += write(value, base)
    return rows


def ratio(value, base):
    return f"{value / base:.2f}" if base else ""


def in_process_table(figures, trips, kinds):
    rows = per_database(figures, kinds, lambda us, base: [f"{us:,.0f}", ratio(us, base)])
    heads = [head for kind in kinds for head in (KINDS[kind], "ratio")]
    if trips:
        heads.append("round trips")
        for name, row in rows.items():
            row.append(f"{trips[name]:g}" if name in trips else "")
    return table("CPU microseconds per request", heads, rows.values())


def wire_table(figures, kinds):
    def write(figure, base):
        value, *times = per_second(figure)
        return [value, ratio(figure[0], base and base[0]), *times]

    heads = [head for kind in kinds for head in (KINDS[kind], "ratio", "p50 ms", "p99 ms")]
    return table("requests per second", heads, per_database(figures, kinds, write).values())


def processes_table(figures):
    rows = [[str(processes), *per_second(figure)] for processes, figure in figures.items()]
    return table("processes", ["requests per second", "p50 ms", "p99 ms"], rows)


def per_second(figure):
    value, *times = figure
    return [f"{value:,.0f}", *(f"{time:.1f}" for time in times)]


def table(first, heads, rows):
    lines = [[first, *heads], ["---", *["--:"] * len(heads)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(cpu, wire, kinds, path):
    import matplotlib.pyplot as plt  # noqa: PLC0415  needed by nothing else

    parts = {
        "CPU time of a request in process, microseconds": cpu,
        "requests per second over the wire": {key: figure[0] for key, figure in wire.items()},
    }
    parts = {label: figures for label, figures in parts.items() if figures}
    figure, all_axes = plt.subplots(
        len(parts), figsize=(9, 3.5 * len(parts)), layout="constrained", squeeze=False
    )
    for axes, (label, figures) in zip(all_axes.flat, parts.items(), strict=True):
        titles, *columns = zip(
            *per_database(figures, kinds, lambda value, _: [value]).values(), strict=True
        )
        height = 0.8 / len(kinds)
        for number, (kind, values) in enumerate(zip(kinds, columns, strict=True)):
            places = [place + number * height for place in range(len(titles))]
            axes.barh(places, values, height, label=KINDS[kind])
        axes.set_yticks([place + 0.4 - height / 2 for place in range(len(titles))], titles)
        axes.set(xlabel=label)
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
    all_axes[0, 0].set(title="What it costs to ask who owns a token")
    all_axes[0, 0].legend()
    figure.savefig(path, dpi=110)


def conditions(names, kinds, postgresql):
    """Return when, where and with which versions the figures were measured."""
    versions = {f"Python {platform.python_version()}"}
    if "postgresql" in kinds:
        with psycopg.connect(postgresql) as connection:
            number = connection.info.parameter_status("server_version").split()[0]
            versions.add(f"PostgreSQL {number}")
    for name in names:
        pins = APPS / PEERS[name].folder / "requirements.txt"
        if pins.exists():  # this project has its own
            direct, _, _ = pins.read_text().partition("#")
            versions |= set(direct.replace("==", " ").splitlines())
    listed = ", ".join(sorted(versions, key=str.lower))
    listed = textwrap.fill(listed, 88, break_on_hyphens=False)
    return f"Measured on {datetime.now(tz=UTC):%Y-%m-%d}, on {len(CORES)} cores, with:\n{listed}."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--databases", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--rounds", type=int, default=3, help="of wrk; in process ten times as many"
    )
    parser.add_argument("--postgresql", default="postgresql://root@127.0.0.1:5432/test")
    parser.add_argument("--venvs", type=Path, default=Path.home() / ".cache" / "benchmark-peers")
    parser.add_argument("--page", type=Path, help="a page whose tables are replaced")
    parser.add_argument("--plot", type=Path, help="where to draw the tables, as PNG")
    options = parser.parse_args()
    names, kinds, parts = options.peers, options.databases, options.only
    if parts != ["in-process"] and not all(map(shutil.which, ("wrk", "taskset"))):
        parser.error("wrk is missing: apt install wrk util-linux, or add --only in-process")

    cpu, wire, tables = {}, {}, []
    with ExitStack() as stack:
        subjects = [
            stack.enter_context(
                prepared(name, PEERS[name], kind, options.postgresql, options.venvs)
            )
            for name in names
            for kind in (kinds if PEERS[name].has_database else [None])
        ]
        if "in-process" in parts:
            several = [one for one in subjects if one.peer.in_process]
            cpu = in_process(several, 10 * options.rounds)
            trips = {
                one.name: round_trips(one, options.postgresql, options.venvs)
                for one in several
                if one.kind == "postgresql"
            }
            tables.append(in_process_table(cpu, trips, kinds))
        if "wire" in parts:
            wire = over_the_wire(subjects, options.rounds)
            tables.append(wire_table(wire, kinds))
        if "processes" in parts:
            ours = [one for one in subjects if (one.name, one.kind) == ("ours", "postgresql")]
            tables += [processes_table(by_processes(one, options.rounds)) for one in ours]
    tables.append(conditions(names, kinds, options.postgresql))

    print("\n\n".join(tables))
    if options.page:
        text = "\n\n".join(["<!-- figures -->", *tables, "<!-- end of figures -->"])
        options.page.write_text(FIGURES.sub(lambda _: text, options.page.read_text()))
    if options.plot:
        draw(cpu, wire, kinds, options.plot)


if __name__ == "__main__":
    main()
