"""What nobody should send: no server error, no hang, and JSON.

What an HTTP server refuses before the API sees it, such as a NUL in a header, is not
sent here.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any

from conformance.checks import SkippedError, check, require
from conformance.client import Answer, NoAnswerError, basic
from conformance.contract import id_of
from conformance.run import Run

LARGE = 100_000  # characters
DEEP = 50_000  # levels
JSON_TYPE: dict[str, str | bytes] = {"Content-Type": "application/json"}
WRONG_TYPES: tuple[Any, ...] = (None, True, 1, -1.5, [], ["a"], {}, {"a": "b"}, [[]])
STRANGE_TEXTS = {
    "empty": "",
    "of 65 characters": "n" * 65,
    "of 1000 characters": "n" * 1000,
    f"of {LARGE} characters": "n" * LARGE,
    "with a NUL": "a\0b",
    "with half a surrogate pair": "a\ud800b",
    "with a line break": "a\r\nb: c",
    "with an emoji": "a😀b",
    "with SQL": "a' OR '1'='1' --",
    "with markup": "<script>alert(1)</script>",
}
STRANGE_ADDRESSES = {
    "without @": "nobody",
    "with two @": "a@b@c",
    "with a line break": "a@example.com\r\nBcc: b@example.com",
    "without a name": "@example.com",
    "too long": "a" * 300 + "@example.com",
}


class Tally:
    """Counts answers; at the end, `seen` is what they were, or why they will not do."""

    def __init__(self) -> None:
        self.count = 0
        self.faults: list[str] = []

    def note(self, what: str, answer: Answer, *statuses: int) -> Answer:
        """Note an answer; with `statuses`, one of them is required, else any below 500."""
        self.count += 1
        if answer.status not in statuses if statuses else answer.status >= 500:
            self.faults.append(f"{answer.status} for {what}")
        elif answer.status >= 400 and not isinstance(answer.json, dict):
            self.faults.append(f"no JSON with {answer.status} for {what}")
        return answer

    def ask(self, run: Run, what: str, *request: Any, statuses: Any = (), **options: Any) -> None:
        """Send a request and note its answer, or that there is none."""
        try:
            self.note(what, run.connection.ask(*request, **options), *statuses)
        except NoAnswerError as error:
            self.count += 1
            self.faults.append(f"{what}: {error}")

    def seen(self) -> str:
        if self.faults:
            first = "; ".join(dict.fromkeys(self.faults[:3]))
            require(False, f"{len(self.faults)} of {self.count} requests: {first}")
        return f"{self.count} requests"


def writes(run: Run) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and options of the routes that take a body."""
    if run.registers:
        yield "POST", "/users", {}
    yield "PUT", f"/users/{id_of(run.alice)}", {"token": run.log_in(run.alice)}


def protected(run: Run) -> list[tuple[str, str]]:
    """Return the routes of the tutorial that take a token."""
    number = id_of(run.alice)
    return [
        ("GET", "/users"),
        ("GET", f"/users/{number}"),
        ("PUT", f"/users/{number}"),
        ("DELETE", "/tokens"),
        ("GET", f"/users/{number}/followers"),
        ("GET", f"/users/{number}/following"),
        ("GET", f"/users/{number}/followed"),
    ]


@check("a body that is no JSON object is no server error")
def bodies(run: Run) -> str:
    tally = Tally()
    texts = {
        "an empty body": b"",
        "no JSON": b"username=alice",
        "half an object": b'{"username": ',
        "bytes that are no text": b"\xff\xfe\x00{",
        "half a surrogate pair as JSON": b'"\\ud800"',
        "NaN": b"NaN",
        "a very long number": b"9" * 5000,
        **{f"the body {json.dumps(value)}": json.dumps(value).encode() for value in WRONG_TYPES},
    }
    for method, path, options in writes(run):
        for what, text in texts.items():
            ask = f"{method} {path} with {what}"
            tally.ask(run, ask, method, path, headers=JSON_TYPE, body=text, **options)
    for what, text in texts.items():
        headers = {**JSON_TYPE, **basic(run.alice.name, run.alice.password)}
        tally.ask(run, f"POST /tokens with {what}", "POST", "/tokens", headers=headers, body=text)
    return tally.seen()


@check("a field of a wrong type is no server error")
def types(run: Run) -> str:
    tally = Tally()
    for method, path, options in writes(run):
        for name in ("username", "email", "password", "about_me"):
            for value in WRONG_TYPES:
                if (name, value) == ("about_me", None):
                    continue
                body = {**run.made_up().json, name: value} if method == "POST" else {name: value}
                what = f"{method} {path} with {name} = {json.dumps(value)}"
                tally.ask(run, what, method, path, json_body=body, **options)
    return tally.seen()


@check("strange texts and addresses are no server error")
def texts(run: Run) -> str:
    tally = Tally()
    run.require_registration()
    strange = dict.fromkeys(("username", "password", "about_me"), STRANGE_TEXTS)
    for name, values in {**strange, "email": STRANGE_TEXTS | STRANGE_ADDRESSES}.items():
        for how, text in values.items():
            body = {**run.made_up().json, name: text}
            what = f"POST /users with {name} {how}"
            tally.ask(run, what, "POST", "/users", json_body=body)
    return tally.seen()


@check("deep nesting is no server error")
def nesting(run: Run) -> str:
    tally = Tally()
    for method, path, options in writes(run):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            body = opening * DEEP + b"1" + closing * DEEP
            what = f"{method} {path} with {DEEP} levels"
            tally.ask(run, what, method, path, headers=JSON_TYPE, body=body, **options)
    return tally.seen()


@check("a body of another type is no server error")
def content_types(run: Run) -> str:
    tally = Tally()
    values = (
        *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", ""),
        *("application/json; charset=utf-16", "application/json; charset=nonsense"),
    )
    for method, path, options in writes(run):
        for value in values:
            body = json.dumps(run.made_up().json if method == "POST" else {}).encode()
            headers: dict[str, str | bytes] = {"Content-Type": value}
            what = f"{method} {path} with Content-Type {value!r}"
            tally.ask(run, what, method, path, headers=headers, body=body, **options)
    return tally.seen()


def broken_credentials() -> dict[str, str | bytes]:
    def encoded(text: bytes) -> str:
        return "Basic " + base64.b64encode(text).decode()

    return {
        "nothing": "",
        "a scheme alone": "Bearer",
        "a scheme and a space": "Bearer ",
        "two tokens": "Bearer a b",
        "an unknown scheme": "Unknown abc",
        "Basic without a value": "Basic",
        "Basic that is no base64": "Basic !!!",
        "Basic with wrong padding": "Basic YTpi=",
        "Basic without a colon": encoded(b"nobody"),
        "Basic with a colon alone": encoded(b":"),
        "Basic with a NUL": encoded(b"no\0body:x"),
        "Basic that is no text": encoded(b"\xff\xfe:\xff"),
        "a long Basic": encoded(b"n" * 2500 + b":" + b"p" * 2500),  # most servers take 8190 bytes
        "a long token": "Bearer " + "a" * 7000,
        "a token that is no ASCII": "Bearer grün".encode(),
        "a token of Latin-1": "Bearer grün".encode("latin-1"),
        "commas and quotes": 'Digest username="a", realm=',
    }


@check("a broken Authorization header gets 401 or 400, in JSON")
def authorization(run: Run) -> str:
    tally = Tally()
    for how, value in broken_credentials().items():
        headers = {"Authorization": value}
        for method, path in (("GET", "/users"), ("POST", "/tokens"), ("DELETE", "/tokens")):
            what = f"{method} {path} with {how}"
            tally.ask(run, what, method, path, statuses=(400, 401), headers=headers)
    return tally.seen()


@check("each route of the tutorial but registration gets 401 without credentials")
def without_credentials(run: Run) -> str:
    tally = Tally()
    token = run.log_in(run.alice)
    for method, path in [*protected(run), ("POST", "/tokens")]:
        if method == "GET" and run.connection.ask("GET", path, token=token).status == 404:
            continue  # the API has no such list
        # To try a route that writes is no way to learn whether it is there.
        statuses = (401,) if method in {"GET", "POST"} else (401, 404, 405)
        tally.ask(run, f"{method} {path}", method, path, statuses=statuses)
    return tally.seen()


@check("an id that no user has gets 404 or 400, in JSON")
def ids(run: Run) -> str:
    tally, token = Tally(), run.log_in(run.alice)
    values = ("0", "-1", "1e9", "abc", "1.5", "%00", "%FF", "..%2f1", "9" * 500)
    for value in (*values, str(2**31), str(2**63 - 1), str(2**63), str(2**64)):
        for rest in ("", "/followers"):
            path = f"/users/{value}{rest}"
            tally.ask(run, f"GET {path[:40]}", "GET", path, token=token, statuses=(400, 404))
        what, path = f"PUT /users/{value[:30]}", f"/users/{value}"
        refusals = (400, 403, 404, 405)
        tally.ask(run, what, "PUT", path, token=token, json_body={}, statuses=refusals)
    return tally.seen()


@check("a page number that is too large is no server error")
def pages(run: Run) -> str:
    tally, token = Tally(), run.log_in(run.alice)
    for value in ("9" * 19, "-" + "9" * 19, "9" * 500, "-1", "1e9", "%00", "%FF", "1&page=2"):
        for name in ("page", "per_page"):
            path = f"/users?{name}={value}"
            tally.ask(run, f"GET {path[:40]}", "GET", path, token=token)
    return tally.seen()


@check("a method that nobody uses is no server error")
def methods(run: Run) -> str:
    paths = ("/users", f"/users/{id_of(run.alice)}", "/tokens", "/there-is-nothing-here")
    token = run.log_in(run.alice)
    statuses = [
        (run.connection.ask(method, path, token=token), method)
        for method in ("HEAD", "OPTIONS", "PROPFIND", "TRACE", "NONSENSE")
        for path in paths
    ]
    for answer, _ in statuses:
        # 501 is what a server says to a method that it does not know, as RFC 9110 wants it.
        require(answer.status < 500 or answer.status == 501, answer)
    return f"{len(statuses)} requests"


@check("after all that the list of users still answers")
def still_there(run: Run) -> str:
    token = run.log_in(run.alice)
    answer = run.connection.ask("GET", "/users?per_page=100", token=token)
    pages = answer.field("_meta", "total_pages")
    require(answer.status == 200, answer)
    if not isinstance(pages, int):
        raise SkippedError("it has no _meta.total_pages")
    for page in range(max(1, pages - 4), pages + 1):
        answer = run.connection.ask("GET", f"/users?per_page=100&page={page}", token=token)
        require(answer.status == 200 and answer.json is not None, answer)
    return f"{pages} pages"


@check("no answer of all these shows a traceback or a debugger")
def traces(run: Run) -> str:
    found = run.api.traces
    require(not found, f"{len(found)} answers: {found[0] if found else ''}")
    return "none"
