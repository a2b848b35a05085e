"""Helpers for several test modules: headers, a real server, concurrent calls."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).parent.parent
PASSWORD = "correct horse"
# Every password that a test has hashed or checked.
passwords_seen = set()


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def basic(username, password=PASSWORD, scheme="Basic"):
    credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {"Authorization": f"{scheme} {credentials}"}


def assert_no_secret_in(log):
    assert not re.search(r"mb[lad]_[0-9A-Za-z]{20}", log), "a token is in the log"
    for password in passwords_seen | {PASSWORD}:
        assert password not in log, "a password is in the log"
    assert "$argon2" not in log, "a hash is in the log"


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def json(self):
        return json.loads(self.text)


class Server:
    """A process started with `./boot.sh` on a free port."""

    def __init__(self, directory=ROOT, command=("./boot.sh",), **environment):
        self.directory = directory
        self.command = command
        self.environment = {**os.environ, "PORT": "0", "DRAIN_SECONDS": "0", **environment}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        self.process.stdout.close()
        assert_no_secret_in("".join(self.output))

    def start(self):
        self.process = subprocess.Popen(
            self.command,
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = []
        self.first_line = self.process.stdout.readline().strip()
        # Keep reading: a full pipe would block the server.
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        self.url = self.first_line.rpartition(" ")[2]
        assert self.url.startswith(("http://", "https://")), f"boot.sh said: {self.first_line}"

    def _read(self, stdout):
        with suppress(ValueError):  # closed by __exit__
            self.output.extend(stdout)

    def stop(self):
        """Send SIGTERM to the server; return its exit status."""
        self.process.terminate()
        return self.process.wait(timeout=60)

    def crash(self):
        """Send SIGKILL to all processes of the server."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=60)

    def workers(self):
        """Return the ids of the processes that serve."""
        pid = self.process.pid
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def memory_mib(self):
        """Return the memory of all processes of the server; shared memory is counted once."""
        kib = 0
        for process in [self.process.pid, *self.workers()]:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            kib += int(re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE).group(1))
        return kib // 1024

    def connect(self, **options):
        """Return a socket that is connected to the server."""
        address = urlsplit(self.url)
        return socket.create_connection((address.hostname, address.port), **options)

    def log(self):
        """The log so far, in the order of the lines; each is a JSON object."""
        return [json.loads(line) for line in self.output if line.startswith("{")]

    def events(self):
        """Return the events of the audit log so far."""
        return [line for line in self.log() if line.get("event", "request") != "request"]

    def requests(self):
        """Method, path and status of each line of the access log so far."""
        lines = [line for line in self.log() if line.get("event") == "request"]
        return [(line["method"], line["path"], line["status"]) for line in lines]

    def request(self, method, path, *, headers=None, json_body=None, body=None, timeout=60):
        headers = dict(headers or {})
        if json_body is not None:
            body = json.dumps(json_body)
            headers["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        except http.client.HTTPException as error:
            raise ConnectionError("the answer broke off") from error
        finally:
            connection.close()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def until_it_waits(app, thread, seconds=0.3):
    """Return when a thread waits for a lock of PostgreSQL, or has ended.

    SQLite does not tell: `seconds` are enough to reach its lock, or to pass if there is none.
    """
    if app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"):
        thread.join(seconds)
        return
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        until(lambda: not thread.is_alive() or connection.exec_driver_sql(waiting).scalar())


def later(**delta):
    """Travel in time, by what `timedelta` takes."""
    return time_machine.travel(datetime.now(UTC) + timedelta(**delta))


def at_once(count, call):
    """Return the results of `call(0)` to `call(count - 1)`, run concurrently in threads."""
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def make_certificate(folder, curve=ec.SECP256R1, serial=1):
    """Write a certificate and its key; return their paths.

    It is for 127.0.0.1, and its own authority.
    """
    key = ec.generate_private_key(curve())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), serial, now, now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(encoding))
    (folder / "key.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


def register_user(client, name):
    """Return the response to the registration of a user."""
    return client.post("/api/users", json=json_of(name))


def json_of(name):
    return {"username": name, "email": f"{name}@example.com", "password": PASSWORD}


def usernames(path):
    """Return the names of all users in a SQLite file."""
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute('SELECT username FROM "user"')}


def add_module_of_routes(directory, name):
    """Does what docs/build-on-it.md says about `app/api/__init__.py`."""
    path = directory / "app" / "api" / "__init__.py"
    start, imported, rest = re.split(r"(?<=import \(\n)((?: {4}\w.*\n)+)", path.read_text())
    lines = sorted([*imported.splitlines(keepends=True), f"    {name},\n"])
    rest, count = re.subn(r"^( *)(?=tokens,$)", rf"\1{name},\n\1", rest, flags=re.MULTILINE)
    assert count == 1  # what is registered
    path.write_text("".join([start, *lines, rest]))
