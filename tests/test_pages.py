"""The pages `/reset` and `/verify`, without a browser."""

import re
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest

PAGES = ["/reset", "/verify"]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Parsed(HTMLParser):
    """The tags of a page, as pairs of name and attributes, and the texts of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.inline = [], []
        self.rawdata = page
        self.close()  # parses all of it

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem is not None and data.strip():  # in <script> or <style>
            self.inline.append(data)

    def links(self):
        """Return what the page loads."""
        return [
            found[name] for _, found in self.tags for name in ("src", "href") if found.get(name)
        ]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_load_and_call_nothing_but_this_server(client, path):
    response = client.get(path)
    assert response.mimetype == "text/html"
    assert response.headers["Content-Security-Policy"] == POLICY
    assert response.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", PAGES)
def test_a_browser_asks_each_time_for_a_newer_page(client, client_of, path):
    response = client.get(path)
    assert response.headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": response.headers["ETag"]}
    assert client.get(path, headers=known).status_code == 304
    assert client_of(APP_NAME="Todo").get(path, headers=known).status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_the_name_of_the_service(client_of, path):
    page = client_of(APP_NAME="Todo & <more>").get(path).text
    assert re.search("<title>.* – Todo &amp; &lt;more&gt;</title>", page)
    assert "<more>" not in page


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_inline_script_or_style(client, path):
    parsed = Parsed(client.get(path).text)
    assert parsed.inline == []
    names = {name for _, found in parsed.tags for name in found}
    assert {name for name in names if name == "style" or name.startswith("on")} == set()


@pytest.mark.parametrize("prefix", ["", "/app"])
@pytest.mark.parametrize("path", PAGES)
def test_every_file_that_a_page_names_is_served_also_under_a_prefix(client, path, prefix):
    environ = {"SCRIPT_NAME": prefix}
    links = Parsed(client.get(path, environ_overrides=environ).text).links()
    assert len(links) == 4
    for link in links:
        # As a browser does; the proxy then removes the prefix.
        address = urljoin(f"https://example.com{prefix}{path}", link)
        base = f"https://example.com{prefix}"
        assert address.startswith(f"{base}/pages/")
        with client.get(address.removeprefix(base), environ_overrides=environ) as response:
            assert response.status_code == 200, link


@pytest.mark.parametrize(
    "name", ["reset.html", "index.html", "../config.py", "%2e%2e%2fconfig.py", "..%2fdocs"]
)
def test_no_other_file_is_served(client, name):
    assert client.get(f"/pages/{name}").status_code == 404


def test_the_script_of_the_pages_has_no_words_and_writes_no_html(client):
    """Who translates a page edits its HTML alone; and an answer cannot become HTML."""
    with client.get("/pages/page.js") as response:
        script = re.sub(r"/\*(?s:.*?)\*/|//.*", "", response.text)  # without comments
    texts = re.findall(r'"([^"\n]*)"|`([^`]*)`', script)
    sentences = [a or b for a, b in texts if re.search("[A-Za-z]{2,} [A-Za-z]{2,}", a or b)]
    assert sentences == []
    assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write|eval", script)


def test_a_token_in_the_query_opens_no_page(client):
    for path in PAGES:
        assert client.get(f"{path}?token=x").status_code == 400
