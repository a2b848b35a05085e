"""The request headers that are trusted, and the headers that every response has."""

import re

import pytest
from flask import session

from app import create_app
from app.auth import public
from config_parsers import trusted_hosts
from tests.helpers import basic, bearer

SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


# -- Responses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/users/me"),
        ("GET", "/api/users"),
        ("POST", "/api/users"),
        ("DELETE", "/api/tokens"),
        ("PATCH", "/api/users"),
        ("OPTIONS", "/api/users"),
        ("GET", "/nowhere"),
        ("GET", "/api/users?token=x"),
    ],
)
def test_every_response_carries_its_id_and_the_safe_headers(client, token, method, path):
    for headers in ({}, bearer(token)):
        response = client.open(path, method=method, headers=headers)
        assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-Id"])
        assert SAFE.items() <= dict(response.headers).items()
        assert "Strict-Transport-Security" not in response.headers


def test_a_500_carries_the_request_id_and_the_safe_headers_too(app, client, token, monkeypatch):
    app.config["PROPAGATE_EXCEPTIONS"] = False
    monkeypatch.setattr("app.auth.credential.look_up_login_token", None)
    response = client.get("/api/users", headers=bearer(token))
    assert response.status_code == 500
    assert "X-Request-Id" in response.headers
    assert SAFE.items() <= dict(response.headers).items()


def test_each_request_gets_its_own_id_that_the_client_cannot_choose(client):
    ids = {
        client.get("/", headers={"X-Request-Id": "forged"}).headers["X-Request-Id"]
        for _ in range(10)
    }
    assert len(ids) == 10
    assert "forged" not in ids


# -- Caches ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["Bearer", "Basic", "wrong"])
def test_an_answer_to_a_request_with_credentials_has_no_store(client, token, way):
    headers = {"Bearer": bearer(token), "Basic": basic("alice"), "wrong": bearer("x")}[way]
    for path in (
        "/api/users/me",
        "/api/users",
        "/nowhere",
        "/docs",
        "/docs/page.css",
        "/openapi.json",
    ):
        with client.get(path, headers=headers) as response:
            assert response.headers["Cache-Control"] == "no-store"


def test_a_public_answer_may_be_cached(client):
    assert "no-store" not in client.get("/openapi.json").headers.get("Cache-Control", "")


# -- Proxies ---------------------------------------------------------------------------

FORWARDED = {"X-Forwarded-For": "192.0.2.9, 198.51.100.1", "X-Forwarded-Proto": "https"}


def test_forwarded_headers_are_ignored_by_default(client, events):
    response = client.post("/api/tokens", headers=basic("nobody") | FORWARDED)
    assert "Strict-Transport-Security" not in response.headers
    assert events()[-1]["source"] == "127.0.0.1"


def test_forwarded_headers_do_not_evade_the_rate_limit(client):
    for number in range(20):
        headers = basic("nobody") | {
            "X-Forwarded-For": f"192.0.2.{number}",
            "Forwarded": f"for=192.0.2.{number}",
            "X-Real-IP": f"192.0.2.{number}",
        }
        assert client.post("/api/tokens", headers=headers).status_code == 401
    assert client.post("/api/tokens", headers=basic("nobody") | FORWARDED).status_code == 429


@pytest.mark.parametrize(
    ("proxies", "source"), [(1, "198.51.100.1"), (2, "192.0.2.9"), (3, "127.0.0.1")]
)
def test_only_the_configured_number_of_proxies_is_trusted(client_of, events, proxies, source):
    client = client_of(TRUSTED_PROXIES=proxies)
    response = client.post("/api/tokens", headers=basic("nobody") | FORWARDED)
    assert events()[-1]["source"] == source
    assert response.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_an_invalid_forwarded_address_is_rate_limited_like_any_other(client_of, events):
    client = client_of(TRUSTED_PROXIES=1)
    headers = basic("nobody") | {"X-Forwarded-For": "unknown\x1b"}
    for _ in range(20):
        assert client.post("/api/tokens", headers=headers).status_code == 401
    assert client.post("/api/tokens", headers=headers).status_code == 429


@pytest.mark.parametrize(
    ("sent", "source"),
    [
        ("192.0.2.9:51234", "192.0.2.9"),
        ("[2001:db8::9]:51234", "2001:db8::9"),
        ("[2001:db8::9]", "2001:db8::9"),
        ("unknown", None),
    ],
)
def test_a_port_that_a_proxy_has_appended_to_the_address_is_left_out(
    client_of, register, events, sent, source
):
    client = client_of(TRUSTED_PROXIES=1)
    register("alice")
    headers = {"X-Forwarded-For": sent}
    answer = client.post("/api/tokens", headers=basic("alice") | headers)
    assert events()[-1]["source"] == source
    listed = client.get("/api/sessions", headers=bearer(answer.json["token"]))
    assert listed.json["items"][0]["address"] == source


def test_a_forwarded_host_is_ignored(client_of):
    client = client_of(TRUSTED_PROXIES=1, TRUSTED_HOSTS=["api.example.com"])
    headers = {"X-Forwarded-Host": "api.example.com"}
    assert client.get("/api/users", headers=headers).status_code == 400


# -- Hosts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("api.example.com", 401),
        ("api.example.com:8000", 401),
        ("one.example.org", 401),
        ("evil.example.com", 400),
        ("api.example.com.evil.example", 400),
        ("127.0.0.1", 400),
        ("", 400),
    ],
)
def test_other_hosts_are_refused_in_json(client_of, host, status):
    client = client_of(TRUSTED_HOSTS=("api.example.com", ".example.org"))
    response = client.get("/api/users", headers={"Host": host})
    assert response.status_code == status
    assert response.json["error"]
    assert "X-Request-Id" in response.headers
    if status == 400:
        text = "the Host header names none of the hosts of this server"
        assert response.json == {"error": "Bad Request", "message": text}


def test_any_host_is_answered_by_default(client):
    assert client.get("/api/users", headers={"Host": "evil.example.com"}).status_code == 401


def test_trusted_hosts_and_the_host_of_a_request_may_be_in_capitals(client_of):
    hosts = trusted_hosts(" API.Example.com,, xn--bcher-kva.example:443, .Example.ORG")
    assert hosts == ("api.example.com", "xn--bcher-kva.example", ".example.org")
    client = client_of(TRUSTED_HOSTS=("API.example.com", *hosts[1:]))
    for host in ("api.example.COM", "xn--bcher-kva.example:8000", "One.example.org"):
        assert client.get("/api/users", headers={"Host": host}).status_code == 401
    assert client.get("/api/users", headers={"Host": "evil.example.com"}).status_code == 400
    client = client_of(TRUSTED_HOSTS="API.example.com")
    for host, status in (("api.example.com", 401), ("evil.example.com", 400)):
        assert client.get("/api/users", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("path", ["//api/users", "//livez", "///", "//docs"])
def test_a_path_that_begins_with_two_slashes_is_no_other_path(client, token, path):
    response = client.get(headers=bearer(token), environ_overrides={"PATH_INFO": path})
    assert (response.status_code, response.json["error"]) == (404, "Not Found")


# -- Pages of other origins ------------------------------------------------------------

ORIGIN = "https://app.example.com"
PREFLIGHT = {
    "Access-Control-Request-Method": "DELETE",
    "Access-Control-Request-Headers": "authorization, content-type, x-requested-with",
}


def cors(response):
    return {
        name: value for name, value in response.headers if name.startswith("Access-Control-Allow-")
    }


def test_no_other_origin_is_allowed_by_default(client, token):
    headers = bearer(token) | {"Origin": ORIGIN}
    assert cors(client.get("/api/users/me", headers=headers)) == {}
    assert cors(client.options("/api/tokens", headers=PREFLIGHT | {"Origin": ORIGIN})) == {}


@pytest.mark.parametrize("origins", [[ORIGIN], ["http://other.example:8080", ORIGIN]])
def test_an_allowed_origin_gets_a_preflight_answer_without_credentials(client_of, origins):
    client = client_of(CORS_ORIGINS=origins)
    response = client.options("/api/tokens", headers=PREFLIGHT | {"Origin": ORIGIN})
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "DELETE" in response.headers["Access-Control-Allow-Methods"]
    allowed = response.headers["Access-Control-Allow-Headers"].lower()
    assert allowed == "authorization, content-type, x-requested-with"
    assert "Access-Control-Allow-Credentials" not in response.headers


def test_an_allowed_origin_may_read_every_answer_including_errors(client_of, token):
    client = client_of(CORS_ORIGINS=[ORIGIN])
    for headers in ({}, bearer(token)):
        for path in ("/api/users/me", "/api/nowhere", "/api/users?page=x", "/openapi.json"):
            response = client.get(path, headers=headers | {"Origin": ORIGIN})
            assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "WWW-Authenticate" in response.headers["Access-Control-Expose-Headers"]
            assert response.vary.find("Origin") >= 0


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example.com",
        "http://app.example.com",
        "https://app.example.com.evil.example",
        "https://appXexample.com",
        "https://app.example.com:8443",
        "null",
    ],
)
def test_an_origin_similar_to_an_allowed_one_is_not_allowed(client_of, token, origin):
    client = client_of(CORS_ORIGINS=[ORIGIN])
    response = client.get("/api/users/me", headers=bearer(token) | {"Origin": origin})
    assert cors(response) == {}
    assert response.vary.find("Origin") >= 0


def test_a_star_allows_every_origin(client_of, token):
    client = client_of(CORS_ORIGINS=["*"])
    headers = bearer(token) | {"Origin": ORIGIN}
    assert cors(client.get("/api/users/me", headers=headers)) == {
        "Access-Control-Allow-Origin": "*"
    }


@pytest.mark.parametrize("path", ["/api/tokens", "/api/users/me"])
def test_a_request_with_x_requested_with_is_challenged_with_xbasic(client, path):
    method = "POST" if path == "/api/tokens" else "GET"
    for script, scheme in ((True, "xBasic"), (False, "Basic")):
        headers = basic("nobody") | ({"X-Requested-With": "XMLHttpRequest"} if script else {})
        response = client.open(path, method=method, headers=headers)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith(f"{scheme} realm=")


# -- The page --------------------------------------------------------------------------


def test_the_page_may_load_nothing_but_its_own_files(client):
    with client.get("/docs") as response:
        policy = response.headers["Content-Security-Policy"]
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives.pop("img-src") == "'self' data:"
    assert directives.pop("default-src") == directives.pop("frame-ancestors") == "'none'"
    assert set(directives.values()) == {"'self'", "'none'"}


def test_every_file_that_the_page_names_is_served_and_no_other(client):
    with client.get("/docs") as response:
        page = response.text
    names = re.findall('(?:src|href)="(docs/.*?)"', page)
    assert len(names) == 5
    for name in names:
        with client.get(f"/{name}") as response:
            assert response.status_code == 200
    for name in ("index.html", "LICENSE", "../config.py", "%2e%2e%2fconfig.py", "..%2fapi"):
        assert client.get(f"/docs/{name}").status_code == 404


def test_headers_that_a_view_sets_are_not_sent_twice(config_class):
    app = create_app(config_class)
    own = {
        "X-Request-Id": "mine",
        "Strict-Transport-Security": "max-age=1",
        "Content-Security-Policy": "default-src 'self'",
        "Cache-Control": "public",
    }
    app.get("/own")(public(lambda: ({}, 200, own)))
    response = app.test_client().get(
        "/own", base_url="https://localhost", headers={"Authorization": "x"}
    )
    found = {name: response.headers.getlist(name) for name in own}
    (id,) = found.pop("X-Request-Id")
    assert re.fullmatch("[0-9a-f]{32}", id)
    assert found == {
        "Strict-Transport-Security": ["max-age=31536000"],
        "Content-Security-Policy": ["default-src 'self'"],
        "Cache-Control": ["no-store"],
    }


def test_a_view_of_ones_own_may_use_a_cookie_session(config_class):
    app = create_app(config_class)

    def count():
        session.permanent = True
        session["count"] = session.get("count", 0) + 1
        return {"count": session["count"]}

    app.get("/count")(public(count))
    app.get("/idle")(public(lambda: {"count": None}))
    client = app.test_client()
    assert "Set-Cookie" not in client.get("/idle").headers
    assert [client.get("/count").json["count"] for _ in range(3)] == [1, 2, 3]
    assert "Set-Cookie" in client.get("/idle").headers  # a new lifetime
    assert client.get("/count").headers["Vary"] == "Cookie"
    client.set_cookie("session", "forged")
    assert client.get("/count").json == {"count": 1}


def test_links_keep_the_path_that_a_proxy_has_removed(client, token):
    response = client.get(
        "/api/users/me", headers=bearer(token), environ_overrides={"SCRIPT_NAME": "/sub"}
    )
    assert response.json["_links"]["self"].startswith("/sub/api/users/")
