"""nginx and HAProxy with the files in deployment/, in front of two nodes."""

import socket
import ssl
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import requests

import config
from benchmarks import rolling
from tests.conftest import CHEAP
from tests.helpers import PASSWORD, Server, at_once, make_certificate, until
from tests.services import HAProxy, Nginx

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # proxies give up a node that answers too late

HOST = {"Host": "api.example.com"}
ALICE = {"username": "alice", "email": "alice@example.com", "password": PASSWORD}


class FakeNode(ThreadingHTTPServer):
    """A node whose requests are counted.

    Attributes:
        answer: a status, or `None`: it breaks the connection off.
        ready: the status of /readyz.
        seen: method and path of each request, those to /readyz left out.
    """

    def __init__(self, answer=200):
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.address = f"127.0.0.1:{self.server_port}"
        self.answer, self.ready, self.seen = answer, 200, []

    def handle_error(self, request, client_address):
        pass  # a client may go away

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class FakeHandler(BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = self.server.ready
        if self.path != "/readyz":
            self.server.seen.append((self.command, self.path))
            status = self.server.answer
        if status is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = answer  # noqa: N815  what http.server calls

    def log_message(self, *_):
        pass


@pytest.fixture
def certificate(tmp_path):
    return make_certificate(tmp_path)


@pytest.fixture(params=[Nginx, HAProxy])
def in_front_of(request, certificate):
    """Return a function that starts a proxy in front of two nodes."""
    with ExitStack() as stack:

        def in_front_of(*addresses):
            proxy = stack.enter_context(request.param(addresses, *certificate))
            # The health check has seen the nodes.
            until(lambda: get(proxy).status_code not in {502, 503})
            return proxy

        yield in_front_of


@pytest.fixture
def fakes(in_front_of):
    """Two fake nodes, and the proxy in front of them."""
    with FakeNode() as one, FakeNode() as two:
        proxy = in_front_of(one.address, two.address)
        one.seen.clear()
        two.seen.clear()
        yield one, two, proxy


def call(proxy, method, path="/", headers=(), session=requests, **options):
    url, headers = f"https://{proxy.address}{path}", {**HOST, **dict(headers)}
    options |= {"verify": proxy.certificate, "timeout": 30}
    return session.request(method, url, headers=headers, **options)


def get(proxy, path="/", **options):
    return call(proxy, "GET", path, **options)


# -- Two nodes of ours -----------------------------------------------------------------


@pytest.fixture
def nodes(app, config_class, monkeypatch):
    """Two nodes with one database."""
    if "/readyz" not in {rule.rule for rule in app.url_map.iter_rules()}:
        monkeypatch.setattr(HAProxy, "ready", "/openapi.json")
    settings = {"TRUSTED_PROXIES": "1", "TRUSTED_HOSTS": "api.example.com", **CHEAP}
    settings |= {"DATABASE_URL": config_class.SQLALCHEMY_DATABASE_URI}
    with (
        Server(SECRET_KEY=config_class.SECRET_KEY, **settings) as one,
        Server(SECRET_KEY=config_class.SECRET_KEY, **settings) as two,
    ):
        yield one, two


def test_both_nodes_serve_over_tls_and_know_the_address_of_the_client(nodes, in_front_of):
    proxy = in_front_of(*(urlsplit(node.url).netloc for node in nodes))
    forged = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "http"}
    answers = [get(proxy, "/api/users", headers=forged) for _ in range(10)]
    assert {answer.status_code for answer in answers} == {401}
    assert answers[0].headers["Strict-Transport-Security"]
    for node in nodes:
        lines = [line for line in node.log() if line["path"] == "/api/users"]
        assert lines
        assert {line["source"] for line in lines} == {"127.0.0.1"}


def test_no_request_fails_when_a_node_crashes_between_two(nodes, in_front_of):
    proxy = in_front_of(*(urlsplit(node.url).netloc for node in nodes))
    assert call(proxy, "POST", "/api/users", json=ALICE).status_code == 201
    nodes[0].crash()
    statuses = [
        call(proxy, method, "/api/tokens", auth=("alice", PASSWORD)).status_code
        for _ in range(10)
        for method in ("POST", "PUT")
    ]
    assert set(statuses) == {200, 403}, statuses  # a password renews no token


def test_no_token_is_in_the_log_of_the_proxy(nodes, in_front_of):
    proxy = in_front_of(*(urlsplit(node.url).netloc for node in nodes))
    call(proxy, "POST", "/api/users", json=ALICE)
    token = call(proxy, "POST", "/api/tokens", auth=("alice", PASSWORD)).json()["token"]
    assert get(proxy, "/api/users/me", auth=(token, "")).status_code == 200
    assert get(proxy, f"/api/users?access_token={token}").status_code == 400
    until(lambda: "GET /api/users/me" in proxy.log())
    assert token not in proxy.log()
    assert "alice" not in proxy.log()


# -- Nodes that misbehave --------------------------------------------------------------


def test_only_tls_1_2_and_later_is_spoken_and_http_2_is_offered(fakes, certificate):
    *_, proxy = fakes

    def handshake(version):
        context = ssl.create_default_context(cafile=certificate[0])
        context.check_hostname = False
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # TLS 1.1 on our side, too
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as connection,
            context.wrap_socket(connection) as tls,
        ):
            return tls.version(), tls.selected_alpn_protocol()

    assert handshake(ssl.TLSVersion.TLSv1_3) == ("TLSv1.3", "h2")
    assert handshake(ssl.TLSVersion.TLSv1_2) == ("TLSv1.2", "h2")
    with pytest.warns(DeprecationWarning, match="TLSv1"), pytest.raises(ssl.SSLError):
        handshake(ssl.TLSVersion.TLSv1_1)


def test_a_post_that_breaks_off_is_never_repeated_but_a_get_is(fakes):
    one, two, proxy = fakes
    one.answer = None
    statuses = [call(proxy, "POST", f"/{number}", data=b"x").status_code for number in range(20)]
    seen = [path for method, path in one.seen + two.seen if method == "POST"]
    assert len(seen) == len(set(seen)) == statuses.count(200) + len(one.seen)
    assert one.seen
    assert set(statuses) <= {200, 502, 503}
    one.seen.clear()
    until(lambda: get(proxy).status_code == 200 and ("GET", "/") in one.seen)
    assert {get(proxy).status_code for _ in range(10)} == {200}


def test_a_node_that_is_away_costs_no_request(fakes):
    one, _, proxy = fakes
    one.__exit__()
    statuses = [call(proxy, method).status_code for _ in range(20) for method in ("GET", "POST")]
    assert set(statuses) == {200}


def test_a_proxy_without_nodes_says_so_in_json(fakes):
    one, two, proxy = fakes
    one.__exit__()
    two.__exit__()
    answer = get(proxy)
    assert answer.status_code in {502, 503}
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json()) == {"error", "message"}


def test_a_further_slash_does_not_get_a_client_to_the_readiness_of_a_node(nodes, in_front_of):
    proxy = in_front_of(*(urlsplit(node.url).netloc for node in nodes))
    for path in ("/readyz", "//readyz", "/%2freadyz"):
        assert get(proxy, path).status_code == 404, path


def test_readiness_is_nothing_for_clients(fakes):
    *_, proxy = fakes
    assert get(proxy, "/readyz").status_code == 404
    assert get(proxy, "/readyz").json()["error"] == "Not Found"


def test_a_flood_from_one_address_gets_429_in_json(fakes):
    one, two, proxy = fakes

    def ask(_):
        with requests.Session() as session:
            return [get(proxy, session=session) for _ in range(150)]

    answers = [answer for some in at_once(8, ask) for answer in some]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 200
    refused = answers[statuses.index(429)]
    assert refused.json()["error"] == "Too Many Requests"
    assert int(refused.headers["Retry-After"]) > 0
    assert len(one.seen) + len(two.seen) == statuses.count(200)


def test_nginx_answers_413_in_json_although_the_client_still_sends(certificate):
    with FakeNode() as node, Nginx([node.address] * 2, *certificate) as proxy:
        limit = config.Config.MAX_CONTENT_LENGTH
        for size, status in ((limit, 200), (limit + 1, 413), (2_000_000, 413)):
            answer = call(proxy, "POST", data=b" " * size)
            assert answer.status_code == status, size
        assert answer.json()["error"] == "Request Entity Too Large"


def test_haproxy_leaves_out_a_node_that_is_not_ready(certificate):
    with (
        FakeNode() as one,
        FakeNode() as two,
        HAProxy((one.address, two.address), *certificate) as proxy,
    ):
        until(lambda: get(proxy).status_code == 200)
        one.ready = 503
        until(lambda: "nodes/node1 is DOWN" in proxy.log())
        one.seen.clear()
        assert {get(proxy).status_code for _ in range(10)} == {200}
        assert one.seen == []
        one.ready = 200
        until(lambda: get(proxy).status_code == 200 and one.seen)


# -- Restarts --------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", [Nginx, HAProxy])
def test_a_rolling_restart_fails_no_request(proxy):
    clients = rolling.restart(proxy, 1)
    assert clients.failures == []
    assert clients.statuses.keys() == {200}
