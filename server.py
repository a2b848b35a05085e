"""Serves the application: `boot.sh` starts it, with the settings of config.py.

Granian (https://github.com/emmett-framework/granian) reads the requests and sends the
answers. In each of its processes it calls the bridge of app/http/asgi.py, which runs the
application in threads.
"""

import asyncio
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels

import tls
from app.http import logs
from app.http.asgi import Bridge
from config import Config, misspelled
from config_parsers import is_in_memory

GRACEFUL_SECONDS = 30  # for requests in flight after SIGTERM
HEADER_SECONDS = 20  # in which a client must send the headers of its next request
STALLED_SECONDS = 30  # after which a client that reads nothing of its answer is dropped
SEND_BUFFER_BYTES = 131_072  # what the system takes of an answer before its client reads
MOST_CONNECTIONS = 16_384  # of one process; those beyond wait until one is closed
OTHER_FILES = 256  # that a process may open: databases, Redis, files that it sends
# Of one request's headers. Above, Granian refuses them without a word; the bridge, which
# answers in JSON, is stricter.
HEADER_BYTES = 65_536
RESPAWN_SECONDS = 2  # between the start of a process and the end of the one it replaces
SHORTEST_SAFE_KEY = 32  # characters


def main() -> None:
    configure_logs()  # before the application, which else writes its own
    from microblog_api import app  # noqa: PLC0415  it ends the process if a setting is wrong

    if is_in_memory(sa.make_url(Config.SQLALCHEMY_DATABASE_URI)):
        text = "must be a file or PostgreSQL; in memory, each process has its own data"
        sys.exit(f"DATABASE_URL: {text}")
    try:
        tls_files = tls.configured()
    except tls.TLSError as error:
        sys.exit(str(error))
    # The processes share the memory of what is loaded here.
    multiprocessing.set_start_method("fork")
    os.register_at_fork(after_in_child=reset_signals)
    reserved = reserve_address()
    host, port = reserved.getsockname()[:2]
    if sys.platform != "linux":
        reserved.close()  # elsewhere the processes share one socket
    scheme = "https" if tls_files else "http"
    url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    not_announced = multiprocessing.Semaphore()
    # Nobody writes into the pipe: it ends when the first process ends.
    alive, parent = os.pipe()

    def load() -> Bridge:
        """Return what Granian calls in a new process, whose loop does not run yet."""
        loop = asyncio.get_event_loop()
        os.close(parent)
        loop.add_reader(alive, stop_as_orphan, loop, alive)
        loop.call_soon(when_listening)
        return Bridge(app, Config.WEB_THREADS, Config.MAX_CONTENT_LENGTH)

    def when_listening() -> None:
        limit_slow_readers()
        if not_announced.acquire(block=False):
            with suppress(OSError):  # nobody reads it, or a disk is full
                print(f"{Config.APP_NAME} is ready at {url}", flush=True)
            threading.Thread(target=warn, args=(app,)).start()

    server = Server(
        "microblog_api:app",
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        workers=Config.WEB_CONCURRENCY,
        respawn_failed_workers=True,
        respawn_interval=RESPAWN_SECONDS,
        workers_kill_timeout=GRACEFUL_SECONDS,
        loop=Loops.asyncio,
        runtime_blocking_threads=4,  # they read the files that are sent
        backpressure=most_connections(),
        http1_settings=HTTP1Settings(
            header_read_timeout=HEADER_SECONDS * 1000, max_buffer_size=HEADER_BYTES
        ),
        ssl_cert=tls_files and tls_files.certificate,
        ssl_key=tls_files and tls_files.key,
        ssl_protocol_min=SSLProtocols.tls12,
        log_level=LogLevels.error,
        log_dictconfig={"loggers": {"_granian": {"propagate": True}}},
    )
    server.tls_files = tls_files
    server.serve(target_loader=load, wrap_loader=False)


class Server(Granian):  # type: ignore[misc, valid-type]  # one of several, by platform
    tls_files: tls.TLSFiles | None = None

    def signal_handler_reload(self, *args: Any, **kwargs: Any) -> None:
        """Read the certificate again; replace no process if it cannot be used."""
        try:
            if self.tls_files is not None:
                self.tls_files.load()
        except tls.TLSError as error:
            log = logging.getLogger("microblog_api.server")
            log.error("SIGHUP has no effect: %s", error)  # noqa: TRY400  the line says it all
        else:
            super().signal_handler_reload(*args, **kwargs)


def reset_signals() -> None:
    """Let a new process be stopped; Granian sets handlers of its own a moment later."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def configure_logs() -> None:
    """Write warnings and errors to standard error, and the access log to standard output."""
    stderr = logging.StreamHandler()
    stderr.setFormatter(logs.formatter_for(sys.stderr))
    logging.root.addHandler(stderr)
    stdout = logging.StreamHandler(sys.stdout)
    stdout.setFormatter(logs.event_formatter_for(sys.stdout))
    access = logging.getLogger("microblog_api.access")
    access.setLevel(logging.INFO)
    access.propagate = False
    access.addHandler(stdout)
    logging.raiseExceptions = False  # a log that cannot be written stops nothing


def reserve_address() -> socket.socket:
    """Return a socket with the address to listen on, which no other server gets.

    Each of the processes listens on the same address, with a socket of its own
    (SO_REUSEPORT). Without this one, a second server could listen there as well.
    """
    shown = f"[{Config.HOST}]" if ":" in Config.HOST else Config.HOST
    try:
        found = socket.getaddrinfo(Config.HOST, Config.PORT, type=socket.SOCK_STREAM)
        family, *_, address = found[0]
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(address)
        if sys.platform == "linux":
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such host"
        sys.exit(f"cannot listen on {shown}:{Config.PORT}: {reason}")
    return reserved


def most_connections() -> int:
    """Raise the limit of open files as far as needed; return how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(limit - OTHER_FILES, limit // 2)


def stop_as_orphan(loop: asyncio.AbstractEventLoop, alive: int) -> None:
    """Stop this process: the one that started it is gone, and would not stop it."""
    loop.remove_reader(alive)
    os.kill(os.getpid(), signal.SIGTERM)


def limit_slow_readers() -> None:
    """Set options of the socket that listens, which each connection inherits.

    Granian has no settings for them.
    """
    for path in Path("/dev/fd").iterdir():
        with suppress(OSError), socket.socket(fileno=os.dup(int(path.name))) as found:
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                if sys.platform == "linux":
                    timeout = STALLED_SECONDS * 1000
                    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)


def warn(app: Flask) -> None:
    """Log what is allowed but probably not meant."""
    log = logging.getLogger("microblog_api.server")
    for name, setting in misspelled().items():
        log.warning("%s is not a setting; did you mean %s?", name, setting)
    if Config.REDIS_URL is not None:
        # The first use; it warns if Redis does not answer.
        app.extensions["rate_limits"].run(lambda counter: counter.storage.get("start"))
    elif Config.WEB_CONCURRENCY > 1:
        log.warning(
            "REDIS_URL is not set: each process counts wrong passwords separately, so "
            "an attacker gets %s times the limit",
            Config.WEB_CONCURRENCY,
        )
    if Config.SECRET_KEY is not None and len(Config.SECRET_KEY) < SHORTEST_SAFE_KEY:
        log.warning(
            "SECRET_KEY is shorter than 32 characters: a thief of the database could guess it and "
            "decrypt every login token; docs/settings.md has a command that creates one"
        )


if __name__ == "__main__":
    main()
