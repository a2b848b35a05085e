"""The bridge between server and application: PEP 3333, limits, and what is not passed on."""

import asyncio
import json
import logging
import threading
from contextlib import contextmanager
from wsgiref.validate import validator

import pytest

from app.http import asgi
from app.http.asgi import Bridge, fill_environ
from app.http.draining import Draining


def scope_of(method="GET", path=b"/", query=b"", headers=(), **others):
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "raw_path": path,
        "query_string": query,
        "headers": [(b"host", b"x"), *headers],
        "client": ("203.0.113.7", 50000),
        "server": ("127.0.0.1", 5000),
    }
    return scope | others


def ask(bridge, *parts, **request):
    """Return status, headers and body of the answer to a request with a body of these parts."""
    messages = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]
    sent = []

    async def receive():
        if messages:
            return messages.pop(0)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(bridge(scope_of(**request), receive, send))
    start, body = sent
    headers = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return start["status"], headers, body.get("body", body.get("path"))


def length(number):
    return (b"content-length", str(number).encode())


CHUNKED = (b"transfer-encoding", b"chunked")


def echo(environ, start_response):
    """An application that answers the body of the request, in pieces."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    write = start_response("200 OK", [("Content-Type", "text/plain"), ("X-Name", "é")])
    write(b"<")
    return [body, b">"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_the_environment_and_the_answer_follow_pep_3333(method, capsys):
    headers = [(b"content-type", b"text/plain"), length(3), (b"x-a", b"1"), (b"x-a", b"2")]
    bridge = Bridge(validator(echo), threads=1, largest_body=100, draining=Draining())
    status, _, body = ask(bridge, b"a", b"bc", method=method, headers=headers, query=b"q=%20")
    assert (status, body) == (200, b"<abc>")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("begin", [Draining.stop, Draining.replace_processes])
@pytest.mark.parametrize("path", [b"/", b"/" + b"x" * 9000], ids=["answered", "refused"])
def test_a_process_that_drains_closes_the_connection_with_each_answer(begin, path):
    draining = Draining()
    bridge = Bridge(echo, threads=1, largest_body=100, draining=draining)
    assert "connection" not in ask(bridge)[1]
    begin(draining)
    _, headers, _ = ask(bridge, path=path)
    assert headers["connection"] == "close"
    successor = Bridge(echo, threads=1, largest_body=100, draining=draining)
    assert ("connection" in ask(successor)[1]) is draining.is_stopping()


def environ_of(**request):
    environ = {}
    fill_environ(environ, scope_of(**request))
    return environ


def test_a_path_that_is_not_utf_8_arrives_as_its_bytes():
    assert environ_of(path=b"/%C3%A9/%FF%2F")["PATH_INFO"] == "/Ã©/ÿ/"
    assert environ_of(path=b"//evil/")["PATH_INFO"] == "//evil/"


def test_repeated_headers_are_joined():
    headers = [(b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"2.2.2.2")]
    assert environ_of(headers=headers)["HTTP_X_FORWARDED_FOR"] == "1.1.1.1, 2.2.2.2"


def test_a_header_with_an_underscore_is_dropped():
    headers = [(b"x_forwarded_for", b"1.1.1.1"), (b"content_length", b"5")]
    environ = environ_of(headers=headers)
    assert not {"HTTP_X_FORWARDED_FOR", "HTTP_CONTENT_LENGTH", "CONTENT_LENGTH"} & set(environ)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"headers": [(b"host", b"y")]}, 400),
        ({"headers": [length(1), length(2)]}, 400),
        ({"path": b"/" + b"x" * 9000}, 414),
        ({"query": b"x" * 9000}, 414),
        ({"headers": [(b"x", b"x" * 17_000)]}, 431),
        ({"headers": [(b"x", b"x" * 16_000)] * 5}, 431),
        ({"headers": [length("0" * 4300 + "2")]}, 400),
        ({"headers": [length("+2")]}, 400),
        ({"path": b""}, 400),
        ({"path": b"evil:80"}, 400),
        ({"headers": [(b"transfer-encoding", b"gzip, chunked")]}, 501),
    ],
)
def test_an_ambiguous_or_too_long_request_is_refused_in_json(request_, status):
    bridge = Bridge(echo, threads=1, largest_body=100, draining=Draining())
    answered, headers, body = ask(bridge, **request_)
    assert (answered, headers["connection"]) == (status, "close")
    assert headers["content-type"] == "application/json"
    assert set(json.loads(body)) == {"error", "message"}


@pytest.mark.parametrize("headers", [[], [(b"host", b"")]])
def test_http_1_1_without_a_host_is_refused_and_http_1_0_is_not(headers):
    with pytest.raises(asgi.RefusedError) as refused:
        fill_environ({}, scope_of() | {"headers": headers})
    assert refused.value.answer.status == 400
    fill_environ({}, scope_of(http_version="1.0") | {"headers": headers})


@pytest.mark.parametrize("framing", [length(6), CHUNKED])
def test_a_body_that_breaks_off_is_400_and_not_passed_on(framing):
    called = []
    bridge = Bridge(lambda *_: called.append(1), threads=1, largest_body=100, draining=Draining())
    sent = iter([{"type": "http.request", "body": b"abc", "more_body": True}])

    async def receive():
        return next(sent, {"type": "http.disconnect"})

    answers = []

    async def send(message):
        answers.append(message)

    asyncio.run(bridge(scope_of(method="POST", headers=[framing]), receive, send))
    assert answers[0]["status"] == 400
    assert not called


def test_a_chunked_body_has_a_length_for_the_application():
    bridge = Bridge(validator(echo), threads=1, largest_body=6, draining=Draining())
    assert ask(bridge, b"abc", b"def", method="POST", headers=[CHUNKED])[2] == b"<abcdef>"


def test_of_a_body_that_is_too_large_the_application_sees_that_it_is():
    seen = []

    def application(environ, start_response):
        seen.append((environ["CONTENT_LENGTH"], environ["wsgi.input"].read()))
        return echo(environ, start_response)

    bridge = Bridge(application, threads=1, largest_body=6, draining=Draining())
    ask(bridge, method="POST", headers=[length(7)])
    ask(bridge, b"abc", b"defg", b"hij", method="POST", headers=[CHUNKED])
    assert seen == [("7", b""), ("7", b"abcdefg")]


def test_a_body_that_is_not_sent_in_time_is_408(monkeypatch):
    monkeypatch.setattr(asgi, "BODY_SECONDS", 0.05)
    bridge = Bridge(echo, threads=1, largest_body=100, draining=Draining())
    answers = []

    async def receive():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"a", "more_body": True}

    async def send(message):
        answers.append(message)

    asyncio.run(bridge(scope_of(method="POST", headers=[length(90)]), receive, send))
    assert answers[0]["status"] == 408
    assert (b"connection", b"close") in answers[0]["headers"]


def test_more_requests_than_may_wait_are_503(monkeypatch):
    monkeypatch.setattr(asgi, "MOST_WAITING", 2)
    go = threading.Event()

    def application(environ, start_response):
        assert go.wait(10)
        return echo(environ, start_response)

    bridge = Bridge(application, threads=1, largest_body=100, draining=Draining())
    answers = []

    async def receive():
        raise AssertionError

    async def send(message):
        answers.append(message)
        if len(answers) == 6:  # a start and a body of each that was refused
            go.set()

    async def flood():
        await asyncio.gather(*[bridge(scope_of(), receive, send) for _ in range(6)])

    asyncio.run(flood())
    statuses = [answer["status"] for answer in answers if "status" in answer]
    assert sorted(statuses) in ([200] * 3 + [503] * 3, [200] * 2 + [503] * 4)
    (refused, *_) = [answer for answer in answers if answer.get("status") == 503]
    assert (b"retry-after", b"1") in refused["headers"]


def test_bodies_that_would_need_too_much_memory_are_503(monkeypatch):
    monkeypatch.setattr(asgi, "MOST_BODIES", 10)
    monkeypatch.setattr(asgi, "SMALL_BODY", 0)
    go = threading.Event()  # the first body is held until the others have been refused
    answers = []

    def application(environ, start_response):
        assert go.wait(10)
        return echo(environ, start_response)

    bridge = Bridge(application, threads=1, largest_body=8, draining=Draining())

    async def receive():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"12345678", "more_body": False}

    async def send(message):
        answers.append(message.get("status"))
        if answers.count(503) == 2:
            go.set()

    async def flood():
        scope = scope_of(method="POST", headers=[length(8)])
        await asyncio.gather(*[bridge(scope, receive, send) for _ in range(3)])

    for _ in range(2):  # what was held is free again
        go.clear()
        answers.clear()
        asyncio.run(flood())
        assert sorted(filter(None, answers)) == [200, 503, 503]


def test_large_bodies_that_are_held_do_not_refuse_small_ones(monkeypatch):
    monkeypatch.setattr(asgi, "MOST_BODIES", 10)
    monkeypatch.setattr(asgi, "SMALL_BODY", 2)
    bridge = Bridge(echo, threads=1, largest_body=4, draining=Draining())
    bridge._bodies = 10  # noqa: SLF001  as if others held them
    assert ask(bridge, b"ab", method="POST", headers=[length(2)])[0] == 200
    assert ask(bridge, b"abc", method="POST", headers=[length(3)])[0] == 503
    assert bridge._bodies == 10  # noqa: SLF001  likewise


@contextmanager
def access_log(caplog):
    """Let `caplog` have the access log of the block, too."""
    logger = logging.getLogger("microblog_api.access")
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO", logger=logger.name):
        patch.setattr(logger, "propagate", True)
        yield


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(1)])
def test_an_application_that_fails_is_500_and_keeps_its_thread(error, caplog):
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/fail":
            raise error
        return echo(environ, start_response)

    bridge = Bridge(application, threads=1, largest_body=100, draining=Draining())
    with access_log(caplog):
        status, _, body = ask(bridge, path=b"/fail")
    assert (status, json.loads(body)["error"]) == (500, "Internal Server Error")
    assert caplog.text.count("Traceback") == 1
    assert caplog.text.count('"path": "/fail", "status": 500') == 1
    assert ask(bridge)[0] == 200
    assert "the server failed to answer" in caplog.text


def test_a_fault_of_the_bridge_is_500_in_json_and_logged(monkeypatch, caplog):
    monkeypatch.setattr(asgi, "fill_environ", lambda *_: 1 / 0)
    with access_log(caplog):
        status, headers, body = ask(Bridge(echo, threads=1, largest_body=100, draining=Draining()))
    assert (status, headers["content-type"]) == (500, "application/json")
    assert json.loads(body)["error"] == "Internal Server Error"
    assert "ZeroDivisionError" in caplog.text
    assert '"status": 500' in caplog.text


def test_an_answer_to_a_request_that_was_cancelled_is_dropped():
    async def settle_late():
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        asgi._settle(future, asgi.Answer(200, []))  # noqa: SLF001  the server may cancel at any time
        return future.cancelled()

    assert asyncio.run(settle_late())


def test_the_iterable_is_closed_even_if_it_fails():
    class Body:
        closed = False

        def __iter__(self):
            raise ValueError

        def close(self):
            self.closed = True

    body = Body()

    def application(_environ, start_response):
        start_response("200 OK", [])
        return body

    assert ask(Bridge(application, threads=1, largest_body=1, draining=Draining()))[0] == 500
    assert body.closed


def test_an_answer_is_sent_although_what_follows_it_fails(caplog):
    class Body(list):
        def close(self):
            raise ValueError

    def application(_environ, start_response):
        start_response("200 OK", [])
        return Body([b"whole"])

    bridge = Bridge(application, threads=1, largest_body=1, draining=Draining())
    status, _, body = ask(bridge)
    assert (status, body) == (200, b"whole")
    assert caplog.text.count("Traceback") == 1


def test_a_file_is_sent_by_the_server_and_not_read(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 9)

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "9")])
        file = (tmp_path / "file").open("rb")
        file.seek(3 if environ["PATH_INFO"] == "/rest" else 0)
        return environ["wsgi.file_wrapper"](file, 2)

    bridge = Bridge(application, threads=1, largest_body=1, draining=Draining())
    assert ask(bridge)[2] == str(tmp_path / "file")
    assert ask(bridge, path=b"/rest")[2] == b"x" * 6


def test_a_refusal_is_logged_without_the_query_string(caplog):
    caplog.set_level("INFO", "microblog_api.access")
    bridge = Bridge(echo, threads=1, largest_body=100, draining=Draining())
    ask(bridge, path=b"/a%0Ab", query=b"token=" + b"x" * 9000)
    (record,) = caplog.records
    line = json.loads(record.message)
    assert (line["path"], line["status"], line["request_id"]) == ("/a%0Ab", 414, None)
    assert line["source"] == "203.0.113.7"
