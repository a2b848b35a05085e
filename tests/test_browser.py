"""The API in a browser: the page at `/docs`, and pages of other origins."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Error, expect

from tests.browser import picture
from tests.helpers import PASSWORD, Server


class Docs:
    """The page at `/docs`, and what a reader does with it."""

    def __init__(self, page):
        self.page = page

    def execute(self, operation):
        """Execute an operation; return its response once the page shows the status."""
        block = self.page.locator(f"[id$=-{operation}]")
        if "is-open" not in block.get_attribute("class"):
            block.locator(".opblock-summary-control").click()
        with self.page.expect_response(lambda response: "/api/" in response.url) as answered:
            block.get_by_role("button", name="Execute").click()
        shown = block.locator(".live-responses-table tbody .response-col_status")
        expect(shown).to_contain_text(str(answered.value.status))
        return answered.value

    def authorize(self, scheme, *texts):
        self.page.locator(".scheme-container .authorize").click()
        expect(self.page.locator(".modal-ux")).to_be_in_viewport(ratio=1)
        form = self.page.locator(".auth-container").filter(has_text=f"(http, {scheme})")
        for field, text in zip(form.locator("input").all(), texts, strict=True):
            field.fill(text)
        form.get_by_label("Apply credentials").click()
        form.get_by_role("button", name="Close").click()


def test_a_newcomer_registers_logs_in_calls_and_logs_out_on_the_page(new_server, open_page):
    watched = open_page(viewport={"width": 1280, "height": 1100})
    page = watched.page
    page.goto(new_server.url)
    assert page.url == f"{new_server.url}/docs"
    page.locator(".opblock").first.wait_for()
    picture(page, "page.png")
    docs = Docs(page)
    assert docs.execute("create_user").status == 201
    docs.authorize("Basic", "alice", PASSWORD)
    token = docs.execute("get_token").json()["token"]
    docs.authorize("Bearer", token)
    called = docs.execute("get_me")
    assert called.status == 200
    assert called.request.headers["authorization"] == f"Bearer {token}"
    assert docs.execute("revoke_token").status == 204
    assert watched.errors == []
    assert docs.execute("get_me").status == 401
    assert all(url.startswith((f"{new_server.url}/", "data:")) for url in watched.requests)
    assert len(watched.requests) > 5


def test_a_wrong_password_on_the_page_opens_no_dialog_of_the_browser(new_server, open_page):
    watched = open_page()
    watched.page.goto(f"{new_server.url}/docs")
    docs = Docs(watched.page)
    docs.authorize("Basic", "alice", "Jabberwocky")
    assert docs.execute("get_token").status == 401
    assert watched.dialogs == []
    # Without the header X-Requested-With, which the page sends, a dialog opens.
    watched.page.evaluate("fetch('/api/tokens', {method: 'POST'})")
    assert watched.dialogs == [f"{new_server.url}/api/tokens"]


def test_the_page_keeps_no_credentials(new_server, open_page):
    page = open_page().page
    page.goto(f"{new_server.url}/docs")
    docs = Docs(page)
    docs.execute("create_user")
    docs.authorize("Basic", "alice", PASSWORD)
    assert docs.execute("get_me").status == 200
    page.reload()
    assert docs.execute("get_me").status == 401
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0


def test_a_link_to_an_operation_shows_its_name(new_server, open_page):
    page = open_page(viewport={"width": 1280, "height": 700}).page
    page.goto(f"{new_server.url}/docs#/Tokens/introspect_token")
    block = page.locator("#operations-Tokens-introspect_token")
    expect(block.locator(".opblock-body")).to_be_in_viewport()
    expect(block.locator(".opblock-summary")).to_be_in_viewport(ratio=1)


def test_the_page_fits_a_phone(new_server, open_page):
    page = open_page(viewport={"width": 390, "height": 844}).page
    page.goto(f"{new_server.url}/docs")
    docs = Docs(page)
    page.locator(".opblock").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    # The response is not cut off either.
    docs.execute("create_user")
    block = page.locator("#operations-Users-create_user")
    assert block.evaluate("block => block.scrollWidth <= block.clientWidth")


# -- Pages of other origins ------------------------------------------------------------

SCRIPT = """async (api) => {
    const ajax = {"X-Requested-With": "XMLHttpRequest"};
    const call = (method, path, authorization, headers = ajax) =>
        fetch(api + path, {method, headers: {...headers, Authorization: authorization}});
    const refused = await call("POST", "/api/tokens", "Basic " + btoa("alice:Jabberwocky"));
    const basic = "Basic " + btoa("alice:correct horse");
    const bearer = "Bearer " + (await (await call("POST", "/api/tokens", basic)).json()).token;
    const json = {...ajax, "Content-Type": "application/json"};
    const options = {method: "POST", headers: {...json, Authorization: bearer}};
    const body = '{"name": "phone", "scope": "read"}';
    const made = await fetch(api + "/api/access-tokens", {...options, body});
    const out = await call("DELETE", "/api/tokens", bearer);
    const after = await call("GET", "/api/users/me", bearer);
    return {
        statuses: [refused, made, out, after].map((response) => response.status),
        challenge: refused.headers.get("WWW-Authenticate"),
        location: made.headers.get("Location"),
    };
}"""


@pytest.fixture
def elsewhere(tmp_path):
    """The address of a page of another origin."""
    (tmp_path / "index.html").write_text("<!doctype html><title>Elsewhere</title>")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()


ALICE = {"username": "alice", "email": "alice@example.com", "password": PASSWORD}


def test_a_page_of_an_allowed_origin_can_log_in_call_and_log_out(new_server, open_page, elsewhere):
    new_server.request("POST", "/api/users", json_body=ALICE)
    watched = open_page()
    watched.page.goto(elsewhere)
    with Server(**{**new_server.environment, "PORT": "0", "CORS_ORIGINS": elsewhere}) as named:
        told = watched.page.evaluate(SCRIPT, named.url)
    assert told["statuses"] == [401, 201, 204, 401]
    assert told["challenge"] == 'xBasic realm="Microblog API", charset="UTF-8"'
    assert told["location"].startswith("/api/access-tokens/")
    assert watched.dialogs == []


def test_a_page_of_any_other_origin_cannot_call_the_api(new_server, open_page, elsewhere):
    new_server.request("POST", "/api/users", json_body=ALICE)
    page = open_page().page
    page.goto(elsewhere)
    with pytest.raises(Error, match="Failed to fetch"):
        page.evaluate(SCRIPT, new_server.url)
