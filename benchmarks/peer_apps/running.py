"""How a peer is installed, started, asked, and put under load."""

import json
import os
import re
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import venv
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa

APPS = Path(__file__).parent
ROOT = APPS.parent.parent

REQUESTS = 200  # of a round in process
CONNECTIONS, WARM_UP, SECONDS = 32, 1, 3  # of a round of wrk
CORES = sorted(os.sched_getaffinity(0))


@contextmanager
def prepared(name, peer, kind, postgresql, venvs):
    """Give a `Subject` on a new database."""
    with new_database(name, kind, postgresql) as url:
        subject = Subject(name, peer, kind, url, venvs)
        try:
            yield subject
        finally:
            subject.driver.communicate()  # its input ends, and so does it


@contextmanager
def new_database(name, kind, postgresql):
    """Create a database, and give its URL; drop it after the block."""
    if kind != "postgresql":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/app.db"
        return
    database = f"benchmark_{name.replace('-', '_')}_{secrets.token_hex(4)}"
    execute(postgresql, f"CREATE DATABASE {database}")
    try:
        yield as_text(sa.make_url(postgresql).set(database=database))
    finally:
        execute(postgresql, f"DROP DATABASE {database} WITH (FORCE)")


def execute(postgresql, statement):
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(statement)


def as_text(url):
    return url.render_as_string(hide_password=False)


class Subject:
    """A peer on one database: a process that measures, and how its server is started."""

    def __init__(self, name, peer, kind, url, venvs):
        self.name, self.peer, self.kind = name, peer, kind
        ours = peer.folder == "ours"  # in the environment of this project, which it imports
        self.python = sys.executable if ours else installed(peer.folder, venvs)
        self.directory = ROOT if ours else APPS / peer.folder
        self.environment = os.environ | {
            "DATABASE_URL": url,
            "SECRET_KEY": "the key of this measurement, and of nothing else",
        }
        module = "benchmarks.peer_apps.ours.peer" if ours else "peer"
        self.driver = subprocess.Popen(
            [self.python, APPS / "driver.py", module, peer.path, peer.scheme],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.authorization = f"{peer.scheme} {json.loads(self.answer())}"

    def answer(self):
        return self.driver.stdout.readline() or sys.exit(f"{self.name} on {self.kind} has failed")

    def microseconds(self):
        """Return the CPU time of one request."""
        print(REQUESTS, file=self.driver.stdin, flush=True)
        return float(self.answer()) / REQUESTS * 1e6

    def load(self, processes=None):
        """Return requests per second, and the median and 99th percentile of their milliseconds.

        Args:
            processes: of the server; `None` for one on the first core, with wrk on the others.
        """
        wrk = ["wrk", "-t1", f"-c{CONNECTIONS}", "--latency"]
        if processes is None:
            wrk = pinned(CORES[1:] or CORES, wrk)
        with self.server(processes) as url:
            for seconds in (WARM_UP, SECONDS):
                command = [*wrk, f"-d{seconds}s", "-H", f"Authorization: {self.authorization}", url]
                printed = subprocess.check_output(command, text=True)
                if "Non-2xx" in printed or "Socket errors" in printed:
                    sys.exit(f"{self.name} on {self.kind}:\n{printed}")
        per_second = re.search(r"Requests/sec: +([\d.]+)", printed)[1]
        return float(per_second), latency(printed, 50), latency(printed, 99)

    @contextmanager
    def server(self, processes):
        """Start the server, and give the URL to ask."""
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        url = f"http://127.0.0.1:{port}{self.peer.path}"
        command = [self.python, "-m", *self.peer.server.format(port=port).split()]
        settings = {"HOST": "127.0.0.1", "PORT": f"{port}", "WEB_CONCURRENCY": f"{processes or 1}"}
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                command if processes else pinned(CORES[:1], command),
                cwd=self.directory,
                env=self.environment | settings,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            ) as process,
        ):
            try:
                self.wait_for(url, process)
                yield url
            except OSError:
                errors.seek(0)
                sys.exit(f"{self.name} on {self.kind} does not serve:\n{errors.read()}")
            finally:
                process.terminate()

    def wait_for(self, url, process):
        request = urllib.request.Request(url, headers={"Authorization": self.authorization})
        end = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(request) as answer:
                    assert json.load(answer)["username"] == "alice"
                    return
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.1)


def installed(folder, venvs):
    """Return the Python of a peer; first install what it needs, unless that is done."""
    wanted, directory = APPS / folder / "requirements.txt", venvs / folder
    python, done = directory / "bin" / "python", directory / "installed-requirements.txt"
    if not done.exists() or done.read_text() != wanted.read_text():
        print(f"installing {folder} ...", file=sys.stderr)
        venv.create(directory, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "-r", wanted], check=True)
        shutil.copy(wanted, done)
    return python


def pinned(cores, command):
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]


def latency(printed, percentile):
    """Return a percentile that wrk printed, in milliseconds."""
    pattern = rf"^ +{percentile}% +([\d.]+)(us|ms|s)$"
    value, unit = re.search(pattern, printed, re.MULTILINE).groups()
    return float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def round_trips(subject, postgresql, venvs):
    """Return how often a request of the same peer waits for PostgreSQL, on a new database."""
    with new_database(subject.name, "postgresql", postgresql) as url:
        proxy = Proxy(sa.make_url(url))
        watched = Subject(subject.name, subject.peer, subject.kind, as_text(proxy.url), venvs)
        watched.microseconds()  # until the driver has prepared its statements
        before = proxy.turns
        watched.microseconds()
        turns = proxy.turns - before
        watched.driver.communicate()
    return turns / REQUESTS


class Proxy:
    """Forwards connections to PostgreSQL; counts how often a client speaks after an answer."""

    def __init__(self, url):
        self.server = url.host, url.port or 5432
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.set(host="127.0.0.1", port=self.listener.getsockname()[1])
        self.turns = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.forward, args=[client], daemon=True).start()

    def forward(self, client):
        with client, socket.create_connection(self.server) as server:
            other, last = {client: server, server: client}, server
            while True:
                for source in select.select([client, server], [], [])[0]:
                    self.turns += (source, last) == (client, server)
                    last = source
                    if not (data := source.recv(65536)):
                        return
                    other[source].sendall(data)
