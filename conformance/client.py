"""The API as its clients see it: connections that stay open, and answers."""

import base64
import http.client
import json
import re
import time
from contextlib import suppress
from functools import cached_property
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

TIMEOUT_SECONDS = 10
# A server may close a connection that was idle; after this time a new one is opened.
IDLE_SECONDS = 1
TOO_LARGE = 413
NOTHING = object()
_TRACE = re.compile(rb"Traceback \(most recent call last\)|Werkzeug Debugger|<frame id=|File \"/")


class UnusableError(Exception):
    """The API cannot be reached, or not be used; the message says what to do."""


class NoAnswerError(Exception):
    """No answer came within `TIMEOUT_SECONDS`, or the connection broke off."""


class Answer:
    def __init__(
        self, request: str, status: int, headers: http.client.HTTPMessage, body: bytes
    ) -> None:
        self.request, self.status, self.headers, self.body = request, status, headers, body

    @cached_property
    def json(self) -> Any:
        """The body, or `None` if it is no JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    @property
    def is_json_error(self) -> bool:
        """Whether this is an object with `error`, as all errors of the tutorial are."""
        return isinstance(self.json, dict) and isinstance(self.json.get("error"), str)

    def field(self, *names: str) -> Any:
        """Return a member of a member of the body, or `None` if there is none."""
        value = self.json
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def __str__(self) -> str:
        return f"{self.status} for {self.request}"


class Connection:
    """A connection that is kept open from request to request. Not for several threads."""

    def __init__(self, api: "Api") -> None:
        self.api = api
        self._connection = api.new_connection()
        self._used_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(  # noqa: PLR0913  what a request can have
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        headers: dict[str, str | bytes] | None = None,
        body: bytes | None = None,
        json_body: Any = NOTHING,
    ) -> Answer:
        """Return the answer. `path` may begin with the prefix of the API, or with what follows it.

        Raises:
            NoAnswerError: no answer.
        """
        sent: dict[str, str | bytes] = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if json_body is not NOTHING:
            body = json.dumps(json_body).encode()
            sent.setdefault("Content-Type", "application/json")
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self._connection.close()
        return self._send(method, self.api.path(path), body, sent)

    def _send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str | bytes]
    ) -> Answer:
        request = f"{method} {path if len(path) < 60 else path[:57] + '...'}"
        try:
            with suppress(BrokenPipeError):  # refused before the end; there may be an answer
                self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            answer = Answer(request, response.status, response.headers, response.read())
        except TimeoutError as error:
            self._connection.close()
            raise NoAnswerError(f"no answer in {TIMEOUT_SECONDS} s to {request}") from error
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise NoAnswerError(f"{request} broke off: {error or type(error).__name__}") from error
        self._used_at = time.monotonic()
        if answer.status == TOO_LARGE:  # a server may close instead of reading on
            self._connection.close()
        if _TRACE.search(answer.body):
            self.api.traces.append(str(answer))
        return answer


class Api:
    """Where the API is.

    Args:
        url: of the server.
        prefix: of all routes of the API.

    Attributes:
        traces: the answers that showed a traceback or a debugger.
    """

    def __init__(self, url: str, prefix: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UnusableError(f"{url} is no URL of a server; http://127.0.0.1:5000 is one")
        self.scheme, self.netloc = parts.scheme, parts.netloc.rpartition("@")[2]
        self.prefix = parts.path.rstrip("/") + "/" + prefix.strip("/")
        self.prefix = self.prefix.rstrip("/")
        self.traces: list[str] = []

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.prefix}"

    def path(self, path: str) -> str:
        if self.prefix and path.startswith((self.prefix + "/", self.prefix + "?")):
            return path
        return self.prefix + path

    def path_of_link(self, link: str) -> str:
        """Return path and query of a link, which may be relative or a whole URL."""
        parts = urlsplit(urljoin(f"{self.url}/", link))
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def new_connection(self) -> http.client.HTTPConnection:
        https = self.scheme == "https"
        kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
        return kind(self.netloc, timeout=TIMEOUT_SECONDS)


def basic(name: str, password: str, encoding: str = "utf-8") -> dict[str, str | bytes]:
    """Return the header of HTTP Basic."""
    text = f"{name}:{password}".encode(encoding)
    return {"Authorization": "Basic " + base64.b64encode(text).decode()}
