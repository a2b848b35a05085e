"""Serves the application: `boot.sh` starts it, with the settings of config.py.

Granian (https://github.com/emmett-framework/granian) reads the requests and sends the
answers. In each of its processes it calls the bridge of app/http/asgi.py, which runs the
application in threads. listener.py has the sockets.
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
import time
from contextlib import suppress
from functools import partial
from typing import Any

import sqlalchemy as sa
from flask import Flask
from granian import Granian
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels

import metrics_server
import tls
from app.http import logs, metrics
from app.http.asgi import Bridge
from app.http.draining import Draining
from config import Config, misspelled
from config_parsers import is_in_memory
from listener import BACKLOG, HANDSHAKE_SECONDS, Listener, ListenError

GRACEFUL_SECONDS = 30  # for requests in flight after SIGTERM
HEADER_SECONDS = 20  # in which a client must send the headers of its next request
MOST_CONNECTIONS = 16_384  # of one process; those beyond wait until one is closed
OTHER_FILES = 256  # that a process may open: databases, Redis, files that it sends
# Of one request's headers. Above, Granian refuses them without a word; the bridge, which
# answers in JSON, is stricter.
HEADER_BYTES = 65_536
STEP_BACK = signal.SIGUSR1  # tells a process to accept no more connections
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
    metrics_directory = None
    if Config.METRICS_PORT is not None:
        metrics_directory = metrics_server.start(Config.METRICS_HOST, Config.METRICS_PORT)
    # The processes share the memory of what is loaded here. The migrations are those of this
    # code: an update may replace the files while it runs.
    _ = app.extensions["readiness"].revisions
    multiprocessing.set_start_method("fork")
    os.register_at_fork(after_in_child=reset_signals)
    try:
        listener = Listener(Config.HOST, Config.PORT, Config.WEB_CONCURRENCY)
    except ListenError as error:
        sys.exit(str(error))
    url = f"{'https' if tls_files else 'http'}://{listener.address}"
    draining = Draining()
    not_announced = multiprocessing.Semaphore()
    # Nobody writes into the pipe: it ends when the first process ends.
    alive, parent = os.pipe()

    def load(number: int) -> Bridge:
        """Return what Granian calls in a new process, whose loop does not run yet."""
        loop = asyncio.get_event_loop()
        os.close(parent)
        listener.leave_others(number)
        loop.add_signal_handler(STEP_BACK, listener.step_back)
        loop.add_reader(alive, stop_as_orphan, loop, alive)
        loop.call_soon(when_listening)
        if Config.MAIL_SENT_BY == "server":
            app.extensions["mail"].start()
        bridge = Bridge(app, Config.WEB_THREADS, Config.MAX_CONTENT_LENGTH, draining)
        if metrics_directory is not None:
            identifier = metrics_server.take_number(metrics_directory)
            metrics.start(app, identifier, str(metrics_directory), bridge.requests_waiting)
        return bridge

    def when_listening() -> None:
        if not_announced.acquire(block=False):
            with suppress(OSError):  # nobody reads it, or a disk is full
                print(f"{Config.APP_NAME} is ready at {url}", flush=True)
            tell_systemd("READY=1")
            threading.Thread(target=warn, args=(app,)).start()

    server = Server(
        "microblog_api:app",
        address=listener.host,
        port=listener.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        workers=Config.WEB_CONCURRENCY,
        respawn_failed_workers=True,
        respawn_interval=max(1, Config.DRAIN_SECONDS),
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
    server.tls_files, server.listener, server.draining = tls_files, listener, draining
    server.serve(target_loader=load, wrap_loader=False)


class Server(Granian):  # type: ignore[misc, valid-type]  # one of several, by platform
    tls_files: tls.TLSFiles | None
    listener: Listener
    draining: Draining
    is_in_a_hurry = False

    def _init_shared_socket(self) -> None:
        """Do not open sockets: the listener has."""
        self._ssp = self._sso = None

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:
        own = self.listener.of_process(idx).fileno()
        backlog = [BACKLOG] if sys.platform in {"linux", "freebsd"} else []
        self._shd = SocketHolder(own, False, *backlog)  # type: ignore[call-arg]  # which its stub leaves out
        return super()._spawn_worker(idx, target, partial(callback_loader, idx))

    def signal_handler_interrupt(self, number: int = 0, *args: Any, **kwargs: Any) -> None:
        """Begin to drain; do not wait at Ctrl-C, or at a second signal."""
        if number != signal.SIGTERM or self.draining.is_stopping():
            self.is_in_a_hurry = True
        self.draining.stop()
        for worker in self.wrks:
            worker.interrupt_by_parent = True  # it may have had the same signal
        super().signal_handler_interrupt(number, *args, **kwargs)

    def signal_handler_reload(self, *args: Any, **kwargs: Any) -> None:
        """Read the certificate again; replace no process if it cannot be used."""
        try:
            if self.tls_files is not None:
                self.tls_files.load()
        except tls.TLSError as error:
            log = logging.getLogger("microblog_api.server")
            log.error("SIGHUP has no effect: %s", error)  # noqa: TRY400  the line says it all
        else:
            self.draining.replace_processes()
            super().signal_handler_reload(*args, **kwargs)

    def _respawn_workers(self, workers: Any, target: Any, loader: Any, delay: float = 0) -> None:
        """Start processes in the place of others; end those after `delay` seconds."""
        old = [self.wrks[number] for number in workers]
        for worker in old:
            worker.interrupt_by_parent = True  # if it dies before it is ended, nothing is amiss
        for number in workers:
            self.respawned_wrks[number] = time.monotonic()
            self.wrks[number] = self._spawn_worker(number, target, loader)
            self.wrks[number].start()
        self._step_back(old)
        end = time.monotonic() + delay
        while time.monotonic() < end and not self.draining.is_stopping():
            time.sleep(0.05)
        for worker in old:
            worker.terminate()
        end = time.monotonic() + GRACEFUL_SECONDS
        for worker in old:
            worker.join(max(0.001, end - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()

    def shutdown(self, exit_code: int = 0) -> None:
        """Drain, as long as the settings say, then end all processes."""
        tell_systemd("STOPPING=1")
        self.draining.stop()  # also where it ends by itself
        try:
            end = time.monotonic() + Config.DRAIN_SECONDS
            while self._may_wait() and time.monotonic() < end:
                time.sleep(0.05)
            if self._may_wait():
                self.listener.refuse()
                self.listener.close()
                self._step_back(self.wrks)
                time.sleep(HANDSHAKE_SECONDS)  # who has just connected sends its request
        finally:  # whatever fails, the processes end
            self.listener.close()
            super().shutdown(exit_code)

    def _step_back(self, workers: Any) -> None:
        for worker in workers:
            if worker.is_alive():
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(worker.inner.pid, STEP_BACK)

    def _may_wait(self) -> bool:
        return not self.is_in_a_hurry and any(worker.is_alive() for worker in self.wrks)


def tell_systemd(state: str) -> None:
    """Send a state to the manager that has started this server, if there is one (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path.startswith(("/", "@")):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(state.encode(), path.replace("@", "\0", 1))


def reset_signals() -> None:
    """Let a new process be stopped; Granian sets handlers of its own a moment later."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(STEP_BACK, signal.SIG_IGN)


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
