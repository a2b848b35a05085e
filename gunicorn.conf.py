"""How Gunicorn serves the application; `boot.sh` starts it, with the settings of config.py."""

import json
import re
import socket
import struct
import sys
from typing import Any
from urllib.parse import quote

from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http.errors import (
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import ThreadWorker
from werkzeug.http import HTTP_STATUS_CODES

from config import Config

SHORTEST_SAFE_KEY = 32  # characters
# What Gunicorn answers itself, before the application sees it.
REFUSALS = {
    LimitRequestLine: (414, "the address is too long"),
    LimitRequestHeaders: (431, "the headers are too large"),
    UnsupportedTransferCoding: (501, "send the body in chunks, or with its Content-Length"),
}

wsgi_app = "microblog_api:app"
bind = f"[{Config.HOST}]:{Config.PORT}" if ":" in Config.HOST else f"{Config.HOST}:{Config.PORT}"
workers = Config.WEB_CONCURRENCY
threads = Config.WEB_THREADS
preload_app = True  # a mistake in the configuration is told once, before anything is served
graceful_timeout = 30  # seconds for requests in flight after SIGTERM
# Bytes; room for a header or an address that is refused in JSON, not by Gunicorn in HTML.
limit_request_field_size = 16_384
limit_request_line = 8190  # the most there is

# Nobody may say by a header what the path or the scheme of a request is.
forwarded_allow_ips = ""
sendfile = False  # Python's waits for ever for a client that reads no more
control_socket_disable = True  # one path for all servers of a user, and no use for it here

loglevel = "warning"
accesslog = "-"
# Neither the query string nor the user of Basic credentials, both of which a
# client may have put a token into.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(B)s %(M)sms %({x-request-id}o)s'


class worker_class(ThreadWorker):  # type: ignore[misc]  # noqa: N801  Gunicorn's, untyped, its name
    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Refuses what is no valid HTTP in JSON; logs none of it, for it may hold a token."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status, message = REFUSALS.get(type(exc), (400, "the request is not valid HTTP"))
        reason = HTTP_STATUS_CODES[status]
        self.log.warning("refused with %s (%s)", status, type(exc).__name__)
        body = json.dumps({"error": reason, "message": message}) + "\n"
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        util.write_nonblock(client, f"{head}\r\n{body}".encode())


class logger_class(Logger):  # type: ignore[misc]  # noqa: N801  Gunicorn's, untyped, its name
    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> Any:
        """Adds the path as it was sent: decoded, a line break in it would forge a line."""
        atoms = super().atoms(resp, req, environ, request_time)
        # As is the address, where a proxy names it.
        atoms["h"] = quote(atoms["h"], safe=":.[]")
        path = quote(environ["PATH_INFO"], safe="/", encoding="latin-1")
        atoms["U"] = re.sub(r"(mb[la]_)\w+", r"\1...", path)  # a token in the wrong place
        return atoms


def when_ready(server: Any) -> None:
    for listener in server.LISTENERS:
        # Inherited by every connection: a client that falls silent in the middle of
        # its request, or reads no more of its answer, gives its thread back after
        # 10 s (and 0 us) in which nothing went through.
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 10, 0))
    print(f"Microblog API is ready at {server.LISTENERS[0]}", flush=True)
    if Config.WEB_CONCURRENCY > 1 and Config.REDIS_URL is None:
        print(
            "REDIS_URL is not set: each process counts wrong passwords by itself, so that "
            f"a guesser has {Config.WEB_CONCURRENCY} times the budget",
            file=sys.stderr,
        )
    if Config.SECRET_KEY is not None and len(Config.SECRET_KEY) < SHORTEST_SAFE_KEY:
        print(
            "SECRET_KEY is short: whoever steals the database may guess it, and with it every "
            "token; README.md has the command that makes a good one",
            file=sys.stderr,
        )
