"""How the server calls the application: whole requests in, whole answers out.

The server speaks ASGI and the application WSGI. In between, the event loop reads the
body of a request before one of the threads runs the application, and the server sends
the answer after the thread is free. So a slow client costs memory, and never a thread.

What is refused here, and not by the application, has neither an `X-Request-Id` nor the
headers of app/http/headers.py.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import IO, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from werkzeug.http import HTTP_STATUS_CODES

from app.clock import utc_now
from app.http import logs, metrics
from app.http.draining import IS_STOPPING, Draining
from app.http.headers import HEALTH_PATHS

BODY_SECONDS = 20  # in which a client must send its body; less than the graceful limit
LONGEST_TARGET = 8190  # bytes of a path with its query string
LONGEST_HEADER = 16_384  # bytes of one header
LONGEST_HEADERS = 65_536  # bytes of all of them
LONGEST_NUMBER = 19  # digits of a Content-Length
# Requests that wait for a thread. More would wait longer than a client does, with
# 64 KiB for the body of each.
MOST_WAITING = 1000
# Bytes of bodies that a process holds at once. The first of each are not counted, so
# that large bodies which arrive slowly do not stop small ones.
MOST_BODIES = 64 * 2**20
SMALL_BODY = 4096

CLOSE = ("Connection", "close")

_access_log = logging.getLogger("microblog_api.access")
_log = logging.getLogger(__name__)

Environ = dict[str, Any]
_Headers = list[tuple[str, str]]
_WSGI = Callable[..., Iterable[bytes]]
_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


class File:
    """`wsgi.file_wrapper`: a file that the server reads by itself, and not into memory."""

    def __init__(self, file: IO[bytes], block_size: int = 8192) -> None:
        self.file, self.block_size = file, block_size

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.file.read(self.block_size), b"")

    def close(self) -> None:
        self.file.close()


class Answer(NamedTuple):
    status: int
    headers: _Headers
    body: bytes = b""
    path: str | None = None  # of the file that is the body

    async def send(self, send: _Send) -> None:
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in self.headers
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if self.path is None:
            await send({"type": "http.response.body", "body": self.body})
        else:
            await send({"type": "http.response.pathsend", "path": self.path})


class RefusedError(Exception):
    """A request that the application does not see."""

    def __init__(self, status: int, message: str, *headers: tuple[str, str]) -> None:
        body = json.dumps({"error": HTTP_STATUS_CODES[status], "message": message}) + "\n"
        fixed = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            CLOSE,  # the rest of the request is not read
        ]
        self.answer = Answer(status, [*headers, *fixed], body.encode())


class Bridge:
    """An ASGI application that runs a WSGI application in threads.

    Args:
        application: the WSGI application.
        threads: how many requests it answers at the same time.
        largest_body: in bytes; of a larger one, the application sees the length alone.
        draining: of the server. While this process drains, each answer closes its connection.
    """

    def __init__(
        self, application: _WSGI, threads: int, largest_body: int, draining: Draining
    ) -> None:
        self._application = application
        self._largest_body = largest_body
        self._draining = draining
        self._generation = draining.generation
        self._bodies = 0  # bytes of all bodies that are held now
        # ThreadPoolExecutor would cost 10 microseconds more for each request.
        self._jobs: SimpleQueue[tuple[Environ, float, asyncio.Future[Answer]]] = SimpleQueue()
        for _ in range(threads):
            Thread(target=self._work, daemon=True).start()

    def requests_waiting(self) -> int:
        """Return the number of requests that wait for a thread."""
        return self._jobs.qsize()

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
        start = perf_counter()
        # Filled step by step: what there is of them is logged, and given back, in any case.
        environ: Environ = {IS_STOPPING: self._draining.is_stopping}
        body = bytearray()
        try:
            fill_environ(environ, scope)
            await self._read_body(environ, receive, body)
            environ["wsgi.input"] = BytesIO(body)
            answer = await self._run(environ, start)
        except RefusedError as refused:
            answer = refused.answer
            log_request(environ, answer, start)
        except Exception:  # noqa: BLE001  every request has an answer, and a line in the log
            answer = _failed()
            log_request(environ, answer, start)
        finally:
            self._bodies -= max(0, len(body) - SMALL_BODY)
        if self._draining.is_over(self._generation) and CLOSE not in answer.headers:
            answer.headers.append(CLOSE)
        await answer.send(send)

    async def _read_body(self, environ: Environ, receive: _Receive, body: bytearray) -> None:
        coding = environ.pop("HTTP_TRANSFER_ENCODING", "")
        if coding.lower() not in {"", "chunked"}:
            raise RefusedError(501, "send the body in chunks, or with its Content-Length")
        digits = environ.get("CONTENT_LENGTH") or "0"
        if not (digits.isdecimal() and len(digits) <= LONGEST_NUMBER):
            raise RefusedError(400, "the Content-Length is not a number of bytes")
        length = int(digits)
        if length > self._largest_body or not (length or coding):
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more and len(body) <= self._largest_body:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(400, "the body does not arrive as it was announced")
                    chunk = message.get("body", b"")
                    counted = max(0, len(body) - SMALL_BODY)
                    body += chunk
                    self._bodies += max(0, len(body) - SMALL_BODY) - counted
                    if self._bodies > max(MOST_BODIES, self._largest_body):
                        raise _busy()
                    more = message.get("more_body", False)
        except TimeoutError:
            text = f"the body was not sent within {BODY_SECONDS} seconds"
            raise RefusedError(408, text) from None
        environ["CONTENT_LENGTH"] = str(len(body))

    async def _run(self, environ: Environ, start: float) -> Answer:
        if environ["PATH_INFO"] in HEALTH_PATHS:  # not behind requests that wait for a database
            return await asyncio.to_thread(self._answer, environ, start)
        if self._jobs.qsize() >= MOST_WAITING:
            raise _busy()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._jobs.put((environ, start, future))
        return await future

    def _work(self) -> None:
        while True:
            environ, start, future = self._jobs.get()
            try:
                try:
                    answer = call(self._application, environ)
                except BaseException:  # noqa: BLE001  a thread that ends would be missing
                    answer = _failed()
                log_request(environ, answer, start)
            except Exception:  # noqa: BLE001  likewise
                answer = _failed()
            with suppress(RuntimeError):  # the loop is closed: the process ends
                future.get_loop().call_soon_threadsafe(_settle, future, answer)

    def _answer(self, environ: Environ, start: float) -> Answer:
        answer = call(self._application, environ)
        log_request(environ, answer, start)
        return answer


def _settle(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():  # the server may have cancelled it
        future.set_result(answer)


def _failed() -> Answer:
    """Log the exception that is being handled; return the answer to its request."""
    _log.exception("the server failed to answer")
    return RefusedError(500, "the server failed to answer").answer


def _busy() -> RefusedError:
    text = "too many requests at this moment; try again shortly"
    return RefusedError(503, text, ("Retry-After", "1"))


def fill_environ(environ: Environ, scope: dict[str, Any]) -> None:
    """Add what PEP 3333 requires of an `environ`, except `wsgi.input`.

    Raises:
        RefusedError: the request is ambiguous, or something in it too long.
    """
    raw_path: bytes = scope["raw_path"]
    host, port = scope["server"]
    environ.update(
        {
            "REQUEST_METHOD": scope["method"],
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(raw_path).decode("latin-1"),
            "QUERY_STRING": scope["query_string"].decode("latin-1"),
            "SERVER_NAME": host,
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": "HTTP/1.1" if scope["http_version"] == "1.1" else "HTTP/1.0",
            "REMOTE_ADDR": scope["client"][0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scope["scheme"],
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": File,
        }
    )
    if len(raw_path) + len(scope["query_string"]) > LONGEST_TARGET:
        raise RefusedError(414, "the address is too long")
    if not raw_path.startswith(b"/") and raw_path != b"*":
        raise RefusedError(400, "the address does not begin with a slash")
    total = 0
    for raw_name, raw_value in scope["headers"]:
        length = len(raw_name) + len(raw_value)
        total += length
        if length > LONGEST_HEADER or total > LONGEST_HEADERS:
            raise RefusedError(431, "a header, or all of them together, are too large")
        if b"_" in raw_name:
            continue  # in an environ it would look like the header with a dash
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        value = raw_value.decode("latin-1")
        key = name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}"
        if key not in environ:
            environ[key] = value
        elif key in {"HTTP_HOST", "CONTENT_LENGTH"}:
            raise RefusedError(400, f"the request has two {raw_name.decode('latin-1')} headers")
        else:
            environ[key] += f", {value}"
    # RFC 9112, 3.2, and 9110, 4.2.1. Where there is none, Granian adds an empty one.
    if not environ.get("HTTP_HOST") and scope["http_version"] == "1.1":
        raise RefusedError(400, "the Host header is missing or empty")


def call(application: _WSGI, environ: Environ) -> Answer:
    """Run a WSGI application; return its whole answer."""
    started: list[tuple[int, _Headers]] = []
    parts: list[bytes] = []

    def start_response(
        status: str, headers: _Headers, _exc_info: Any = None
    ) -> Callable[[bytes], None]:
        started[:] = [(int(status[:3]), headers)]
        return parts.append

    path = None
    iterable = application(environ, start_response)
    try:
        if isinstance(iterable, File) and iterable.file.tell() == 0:
            path = iterable.file.name
        else:
            parts.extend(iterable)
    finally:
        if hasattr(iterable, "close"):
            try:
                iterable.close()
            except Exception:  # noqa: BLE001  the answer is whole
                _log.exception("a function that follows the answer has failed")
    return Answer(*started[0], b"".join(parts), path)


def log_request(environ: Environ, answer: Answer, start: float) -> None:
    """Write the line of a request to the access log, and count it.

    Neither the query string nor the name in Basic credentials: both may be a token.
    """
    seconds = perf_counter() - start
    if metrics.current is not None:
        metrics.current.count_request(environ, answer.status, seconds)
    names = {name.lower(): value for name, value in answer.headers}
    size = names.get("content-length", 0) if answer.path else len(answer.body)
    line = {
        "time": utc_now().isoformat(timespec="microseconds"),
        "event": "request",
        "method": logs.mask_tokens(environ.get("REQUEST_METHOD", "")),
        "path": logs.quoted_path(environ.get("PATH_INFO", "")),
        "status": answer.status,
        "milliseconds": round(seconds * 1000, 1),
        "bytes": int(size),
        "source": logs.address(environ.get("REMOTE_ADDR")),
        "request_id": names.get("x-request-id"),
    }
    _access_log.info(json.dumps(line), extra={"line": line})
