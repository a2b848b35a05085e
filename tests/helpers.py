"""What several tests need: headers, a real server, many clients at once."""

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
PASSWORD = "correct horse"
# What anybody may use without credentials.
PUBLIC = {
    ("POST", "/api/users"),
    ("POST", "/api/tokens/revoke"),
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/docs/<name>"),
    ("GET", "/openapi.json"),
}
# Every password that any test has had hashed or checked.
passwords_seen = set()


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def basic(username, password=PASSWORD, scheme="Basic"):
    credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {"Authorization": f"{scheme} {credentials}"}


def assert_no_secret_in(log):
    assert not re.search(r"mb[la]_[0-9A-Za-z]{20}", log), "a token is in the log"
    for password in passwords_seen | {PASSWORD}:
        assert password not in log, "a password is in the log"


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def json(self):
        return json.loads(self.text)


class Server:
    """A process started with `./boot.sh` on a free port."""

    def __init__(self, directory=ROOT, **environment):
        self.directory = directory
        self.environment = {**os.environ, "PORT": "0", **environment}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        self.process.stdout.close()
        assert_no_secret_in("".join(self.output))

    def start(self):
        self.process = subprocess.Popen(
            ["./boot.sh"],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = []
        self.first_line = self.process.stdout.readline().strip()
        # Read on, or the server would wait for room in the pipe.
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        self.url = self.first_line.rpartition(" ")[2]
        assert self.url.startswith("http://"), f"boot.sh said: {self.first_line}"

    def _read(self, stdout):
        with suppress(ValueError):  # closed by __exit__
            self.output.extend(stdout)

    def stop(self):
        """What `kill` does, to the process that boot.sh has become; returns its exit status."""
        self.process.terminate()
        return self.process.wait(timeout=60)

    def crash(self):
        """Takes every process of the server down with no time to say goodbye."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=60)

    def memory_mib(self):
        """Memory of all processes of the server; what they share is counted once."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        kib = 0
        for process in [str(pid), *children]:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            kib += int(re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE).group(1))
        return kib // 1024

    def events(self):
        """The lines of the audit log so far."""
        return [json.loads(line) for line in self.output if line.startswith("{")]

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


def at_once(count, call):
    """The results of `call(0)` to `call(count - 1)`, each in a thread, started together."""
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
