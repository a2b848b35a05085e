"""Answers Prometheus at METRICS_HOST and METRICS_PORT, in a process of its own.

The processes of server.py count (app/http/metrics.py) in files of a directory, which are
added up here: the multiprocess mode of prometheus_client. So Prometheus is answered also
when the others are busy. Locks tell who is alive, as the system releases them:

- Each process that counts holds the lock of a number. The next one that starts takes the
  number over if it is free, and goes on with its counts: they never go back, and the
  files do not become more.
- All of them hold the lock of the directory. Once it is free, the server has ended: this
  process removes the directory, and ends too.

server.py calls `start()` and `take_number()`; the rest runs in the process that
`start()` begins.
"""

import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from http.server import ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import Metric

# In memory where there is such a place: a full disk would end a process that writes to a
# file of this kind.
BASE = Path("/dev/shm")  # noqa: S108  the directory in it has a random name
PREFIX = "metrics-of-api-"
RESTART_SECONDS = 1  # before this process is started again
CLIENT_SECONDS = 10  # in which a client must send its request

_log = logging.getLogger("microblog_api.metrics")


# -- In the processes of server.py ---------------------------------------------------


def start(host: str, port: int) -> Path:
    """Start the process that answers; return the directory for the files.

    Call it before other processes are forked. Ends this one, with a message, if it cannot
    listen.
    """
    shown = f"[{host}]" if ":" in host else host
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such host"
        sys.exit(f"METRICS_PORT: cannot listen on {shown}:{port}: {reason}")
    base = BASE if os.access(BASE, os.W_OK) else Path(tempfile.gettempdir())
    remove_what_is_left(base)
    # It has its name only when it is locked: another server that starts would remove it.
    made = Path(tempfile.mkdtemp(prefix=f"new-{PREFIX}", dir=base))
    lock(made, os.O_DIRECTORY)  # until this process and all that it forks have ended
    directory = made.rename(base / made.name.removeprefix("new-"))
    process = answer(listener, directory)
    Thread(target=answer_again, args=(process, listener, directory), daemon=True).start()
    return directory


def remove_what_is_left(base: Path) -> None:
    """Remove the directories of servers that were killed with all their processes."""
    for old in base.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is in use, or not ours
            os.close(lock(old, os.O_DIRECTORY))
            shutil.rmtree(old)


def lock(path: Path, flags: int = os.O_CREAT, operation: int = fcntl.LOCK_NB) -> int:
    """Return a file descriptor that holds the lock of `path` until it is closed.

    Args:
        path: of a file or directory.
        flags: of `os.open`.
        operation: `LOCK_NB`, or 0 to wait until nobody else holds it.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    descriptor = os.open(path, flags, mode=0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | operation)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def answer(listener: socket.socket, directory: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, __file__, str(listener.fileno()), str(directory)]
    return subprocess.Popen(  # noqa: S603  nothing of it comes from a client
        command, stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()]
    )


def answer_again(
    process: "subprocess.Popen[bytes]", listener: socket.socket, directory: Path
) -> None:
    """Start it again when it ends. Holds no lock while it waits: others are forked meanwhile."""
    while True:
        status = process.wait()
        _log.error("the process that answers Prometheus has ended with status %s", status)
        time.sleep(RESTART_SECONDS)
        process = answer(listener, directory)


def take_number(directory: Path) -> int:
    """Return the lowest number that no live process has; it is this one's until it ends."""
    for number in count():
        with suppress(BlockingIOError):
            lock(directory / f"{number}.lock")
            return number
    raise AssertionError


# -- In the process that answers -----------------------------------------------------


def main(descriptor: int, directory: Path) -> None:
    # Meant for the server, whose end is awaited below.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from prometheus_client import CollectorRegistry, MetricsHandler  # noqa: PLC0415  not in the others

    registry = CollectorRegistry()
    registry.register(Sums(directory))
    handler: Any = MetricsHandler.factory(registry)
    handler.timeout = CLIENT_SECONDS
    server = Server(("", 0), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=descriptor)
    Thread(target=server.serve_forever, daemon=True).start()
    lock(directory, os.O_DIRECTORY, operation=0)
    shutil.rmtree(directory)


class Sums:
    """The metrics of all processes, added up when Prometheus asks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable["Metric"]:
        from prometheus_client import multiprocess  # noqa: PLC0415  likewise

        for path in self._directory.glob("*.lock"):
            with suppress(BlockingIOError):  # the process lives
                held = lock(path)  # nobody takes the number before its gauges are gone
                try:
                    multiprocess.mark_process_dead(path.stem, str(self._directory))
                finally:
                    os.close(held)
        sums: Iterable[Metric] = multiprocess.MultiProcessCollector(
            None, str(self._directory)
        ).collect()
        return sums


class Server(ThreadingHTTPServer):
    def handle_error(self, *args: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # the client has gone
            super().handle_error(*args)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
