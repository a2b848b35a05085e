"""Runs the application of one peer in its own virtual environment.

    python driver.py MODULE PATH SCHEME

Makes a token, checks the answers, and prints the token as JSON. Then reads numbers,
one per line: sends that many requests, and prints the CPU seconds that they took.
Needs only the standard library, and calls the application as its server would.
"""

import asyncio
import importlib
import inspect
import io
import json
import sys
import time
from pathlib import Path

HOST = "127.0.0.1"
REFUSED = (401, 422)  # 422: flask-jwt-extended's


def wsgi(app, path, authorization):
    """Return a function that sends a request, and returns the status and the body."""
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": HOST,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": HOST,
        "HTTP_HOST": HOST,
        "HTTP_AUTHORIZATION": authorization,
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
    }

    def request():
        statuses = []
        answer = app(environ.copy(), lambda status, *_: statuses.append(status))
        body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        return int(statuses[0][:3]), body

    return request


def asgi(app, path, authorization):
    """Return a coroutine function that does the same."""
    headers = [(b"host", HOST.encode()), (b"authorization", authorization.encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": (HOST, 50000),
        "server": (HOST, 80),
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def request():
        messages = []

        async def send(message):
            messages.append(message)

        await app(scope.copy(), receive, send)
        start, *parts = messages
        return start["status"], b"".join(part.get("body", b"") for part in parts)

    return request


def cpu_seconds_of(request):
    """Return a function that sends a number of requests, and returns their CPU seconds."""

    def measure(count):
        start = time.process_time()
        for _ in range(count):
            request()
        return time.process_time() - start

    async def measure_async(count):
        start = time.process_time()
        for _ in range(count):
            await request()
        return time.process_time() - start

    return measure_async if inspect.iscoroutinefunction(request) else measure


def check(token, right, wrong):
    """Raise unless the token gets the right answer, and a wrong one is refused."""
    status, body = right
    answer = json.loads(body)
    assert (status, answer["id"], answer["username"]) == (200, 1, "alice"), right
    assert token is None or wrong[0] in REFUSED, wrong


def serve(peer, interface, run):
    """Do what standard input says; `run(function, *arguments)` returns the result of a call."""
    path, scheme = sys.argv[2:]
    token = run(peer.make_token)
    request = interface(peer.app, path, f"{scheme} {token}")
    wrong = interface(peer.app, path, f"{scheme} {str(token)[::-1]}")
    check(token, run(request), run(wrong))
    print(json.dumps(token), flush=True)
    for line in sys.stdin:
        print(run(cpu_seconds_of(request), int(line)), flush=True)


def main():
    sys.path[0] = str(Path.cwd())  # as the servers do
    peer = importlib.import_module(sys.argv[1])
    if inspect.iscoroutinefunction(peer.make_token):
        import uvloop  # noqa: PLC0415  what Uvicorn uses

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            serve(peer, asgi, lambda call, *args: runner.run(call(*args)))
    else:
        serve(peer, wsgi, lambda call, *args: call(*args))


if __name__ == "__main__":
    main()
