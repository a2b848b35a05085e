"""The pages `/reset` and `/verify` in a browser; the tests answer in place of the API."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser import picture
from tests.conftest import CHEAP
from tests.helpers import PASSWORD, Server

TOKEN = "0123456789" * 4
CHANGED = "Your password is changed. All log ins have ended: log in with the new one."
SENT = "If there is such an account, a mail is on its way."
UNREACHABLE = "The server cannot be reached. Check your connection, and try again."
CONFIRMED = "Your address is confirmed. You can close this page."


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a server; nothing that it stores matters here."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('pages')}/app.db"
    key = "of the tests, long enough for no warning"
    with Server(DATABASE_URL=uri, SECRET_KEY=key, **CHEAP) as server:
        yield server.url


class Api:
    """Answers the requests of a page, and keeps them."""

    def __init__(self, page):
        self.calls = []
        self.answer = {"status": 204}
        page.route("**/api/**", self.handle)

    def handle(self, route):
        request = route.request
        self.calls.append((request.method, request.url, request.post_data_json))
        if self.answer is None:
            route.abort("connectionfailed")
        else:
            route.fulfill(**self.answer)

    def refuse(self, status, *, headers=None, **body):
        self.answer = {"status": status, "json": {"error": "x", **body}, "headers": headers or {}}


class Visit:
    """A page, the API behind it, and what a reader sees and does."""

    def __init__(self, watched, address):
        self.watched, self.page = watched, watched.page
        self.api = Api(self.page)
        self.page.goto(address)
        self.message = self.page.get_by_role("status")
        self.password = self.page.get_by_label("New password")
        self.login = self.page.get_by_label("User name or e-mail address")

    def press(self, name):
        self.page.get_by_role("button", name=name).click()

    def change(self, password=PASSWORD):
        self.password.fill(password)
        self.press("Change the password")

    def ask(self, login="alice"):
        self.login.fill(login)
        self.press("Send me a link")

    def assert_says(self, text):
        """Assert that this alone is the message, and that reading goes on there."""
        expect(self.message).to_have_text(text)
        expect(self.message).to_be_focused()
        expect(self.message).to_be_in_viewport(ratio=1)


@pytest.fixture
def visit(open_page, url):
    def visit(path, **options):
        return Visit(open_page(**options), f"{url}{path}")

    return visit


# -- A new password --------------------------------------------------------------------


def test_a_link_sets_a_new_password(visit, url):
    visited = visit(f"/reset#token={TOKEN}")
    expect(visited.login).to_be_hidden()
    visited.change(" correct horse ")
    visited.assert_says(CHANGED)
    body = {"token": TOKEN, "new_password": " correct horse "}
    assert visited.api.calls == [("PUT", f"{url}/api/tokens/reset", body)]
    expect(visited.page.get_by_role("button")).to_have_count(0)
    assert visited.password.input_value() == ""
    assert visited.watched.errors == []


@pytest.mark.parametrize("path", ["/reset", "/verify"])
def test_the_token_leaves_the_address_at_once_and_is_stored_nowhere(visit, url, path):
    visited = visit(f"{path}#token={TOKEN}")
    expect(visited.page.get_by_role("button")).to_have_count(1)
    assert visited.page.url == f"{url}{path}"
    stored = "localStorage.length + sessionStorage.length + document.cookie.length"
    assert visited.page.evaluate(stored) == 0
    assert visited.page.evaluate("[history.length, history.state]") == [2, None]  # 1: about:blank
    assert not any(TOKEN in address for address in visited.watched.requests if "#" not in address)


def test_a_password_that_is_refused_is_explained_at_its_field_and_can_be_changed(visit):
    visited = visit(f"/reset#token={TOKEN}")
    errors = {"new_password": ["must be 12 to 256 characters long", "must be <b>better</b>"]}
    visited.api.refuse(400, message="x", errors=errors)
    visited.change("short")
    text = "Must be 12 to 256 characters long. Must be <b>better</b>."
    expect(visited.password).to_have_accessible_description(text)
    expect(visited.page.get_by_text(text)).to_be_visible()
    expect(visited.password).to_be_focused()
    expect(visited.password).to_have_attribute("aria-invalid", "true")
    expect(visited.password).to_have_value("short")
    visited.api.answer = {"status": 204}
    visited.change()
    visited.assert_says(CHANGED)
    expect(visited.page.get_by_text(text)).to_have_count(0)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("the link has expired; ask for a new one", "The link has expired; ask for a new one."),
        (
            "the link is not valid; it may have been used already",
            "The link is not valid; it may have been used already.",
        ),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>."),
    ],
)
def test_a_link_that_does_not_work_leads_to_the_form_for_a_new_one(visit, url, message, shown):
    visited = visit(f"/reset#token={TOKEN}")
    visited.api.refuse(400, message=message)
    visited.change()
    visited.assert_says(shown)
    expect(visited.password).to_be_hidden()
    visited.api.answer = {"status": 202, "json": {}}
    visited.ask()
    visited.assert_says(SENT)
    assert visited.api.calls[1:] == [("POST", f"{url}/api/tokens/reset", {"login": "alice"})]


def test_a_second_link_in_the_same_tab_replaces_the_first(visit, url):
    visited = visit(f"/reset#token={TOKEN}")
    visited.api.refuse(400, message="the link has expired; ask for a new one")
    visited.change()
    expect(visited.login).to_be_visible()
    visited.page.goto(f"{url}/reset#token=another")
    expect(visited.message).to_be_empty()
    visited.change()
    expect(visited.login).to_be_visible()
    assert [body["token"] for _, _, body in visited.api.calls] == [TOKEN, "another"]
    assert visited.page.url == f"{url}/reset"


def test_the_password_can_be_shown_and_is_hidden_before_it_is_sent(visit):
    visited = visit(f"/reset#token={TOKEN}")
    visited.api.answer = None
    show = visited.page.get_by_label("Show the password")
    expect(visited.password).to_have_attribute("autocomplete", "new-password")
    show.check()
    expect(visited.password).to_have_attribute("type", "text")
    visited.change(" correct horse ")
    visited.assert_says(UNREACHABLE)
    expect(visited.password).to_have_attribute("type", "password")
    expect(show).not_to_be_checked()
    assert visited.api.calls[0][2]["new_password"] == " correct horse "


# -- A link for a new password ---------------------------------------------------------


def test_without_a_link_the_page_asks_for_one(visit, url):
    visited = visit("/reset")
    expect(visited.password).to_be_hidden()
    visited.api.answer = {"status": 202, "json": {}}
    visited.ask("alice@example.com ")
    visited.assert_says(SENT)
    assert visited.api.calls == [
        ("POST", f"{url}/api/tokens/reset", {"login": "alice@example.com"})
    ]
    visited.page.get_by_role("link", name="ask again").click()
    expect(visited.login).to_be_visible()
    expect(visited.login).to_have_value("")


def test_a_login_that_is_refused_is_explained_at_its_field(visit):
    visited = visit("/reset")
    visited.api.refuse(400, message="x", errors={"login": ["must be a text"]})
    visited.ask()
    expect(visited.login).to_have_accessible_description("Must be a text.")


def test_nothing_is_sent_while_the_field_is_empty(visit):
    visited = visit("/reset")
    visited.press("Send me a link")
    expect(visited.login).to_be_focused()
    assert visited.api.calls == []


# -- An address ------------------------------------------------------------------------


def test_a_link_confirms_an_address_only_when_the_button_is_pressed(visit, url):
    visited = visit(f"/verify#token={TOKEN}")
    expect(visited.page.get_by_role("button")).to_have_count(1)
    assert visited.api.calls == []
    visited.press("Confirm this address")
    visited.assert_says(CONFIRMED)
    assert visited.api.calls == [("POST", f"{url}/api/email-verifications", {"token": TOKEN})]
    expect(visited.page.get_by_role("button")).to_have_count(0)
    assert visited.watched.errors == []


def test_a_link_that_does_not_work_confirms_nothing(visit):
    visited = visit(f"/verify#token={TOKEN}")
    visited.api.refuse(400, message="the link has expired; ask for a new one")
    visited.press("Confirm this address")
    visited.assert_says("The link has expired; ask for a new one.")
    expect(visited.page.get_by_text("To get a new link, log in")).to_be_visible()
    expect(visited.page.get_by_role("button")).to_have_count(0)


def test_without_a_link_there_is_nothing_to_confirm(visit):
    visited = visit("/verify")
    expect(visited.page.get_by_text("Open the link from the mail")).to_be_visible()
    expect(visited.page.get_by_role("button")).to_have_count(0)


# -- Answers and their absence ---------------------------------------------------------

FORMS = {
    "ask": ("/reset", Visit.ask),
    "change": (f"/reset#token={TOKEN}", Visit.change),
    "confirm": (f"/verify#token={TOKEN}", lambda visited: visited.press("Confirm this address")),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_fails_is_said_and_can_be_sent_again(visit, form):
    path, send = FORMS[form]
    visited = visit(path)

    def assert_answered_with(text):
        send(visited)
        visited.assert_says(text)
        expect(visited.page.get_by_role("button")).to_be_enabled()

    visited.api.answer = None
    assert_answered_with(UNREACHABLE)
    for seconds, when in [
        ("1", "in 1 second"),
        ("90", "in 90 seconds"),
        ("130", "in 3 minutes"),
        ("86400", "in 24 hours"),
        ("Sun, 22 Nov 2026 09:00:00 GMT", "shortly"),
        (None, "shortly"),
    ]:
        headers = {"Retry-After": seconds} if seconds else None
        visited.api.refuse(429, message="too many", headers=headers)
        assert_answered_with(f"That was too often. Try again {when}.")
    visited.api.refuse(503, message="busy", headers={"Retry-After": "5"})
    assert_answered_with("The server cannot answer at the moment. Try again in 5 seconds.")
    for answer in [
        {"status": 500, "json": {"error": "Internal Server Error", "message": "x"}},
        {"status": 502, "body": "<html>Bad Gateway", "content_type": "text/html"},
        {"status": 404, "json": {"error": "Not Found", "message": "x"}},
        {"status": 400, "json": None},
        {"status": 400, "json": []},
    ]:
        visited.api.answer = answer
        assert_answered_with("Something went wrong on our side. Try again later.")
    visited.api.answer = {"status": 204}
    send(visited)
    expect(visited.message).to_have_class("good")


@pytest.mark.parametrize("form", FORMS)
def test_a_request_is_sent_once_and_can_be_repeated_after_it_was_given_up(visit, form):
    path, send = FORMS[form]
    visited = visit(path)
    waiting = []

    def wait(route):
        waiting.append(route)

    visited.page.route("**/api/**", wait)
    visited.page.clock.install()
    send(visited)
    button = visited.page.get_by_role("button")
    expect(button).to_be_disabled()
    button.dispatch_event("click")
    visited.page.locator("form:visible").evaluate("form => form.requestSubmit()")
    visited.page.keyboard.press("Enter")
    visited.page.clock.run_for(29_000)
    expect(button).to_be_disabled()
    visited.page.clock.run_for(2_000)
    visited.assert_says(UNREACHABLE)
    assert len(waiting) == 1
    visited.page.unroute("**/api/**", wait)
    send(visited)
    expect(visited.message).to_have_class("good")


def test_a_double_click_sends_once(visit):
    visited = visit(f"/verify#token={TOKEN}")
    visited.page.get_by_role("button").dblclick()
    visited.assert_says(CONFIRMED)
    assert len(visited.api.calls) == 1


# -- Where and how it is shown ---------------------------------------------------------


def test_the_pages_work_behind_a_path_prefix(open_page, url):
    watched = open_page()

    def remove_prefix(route):
        address = re.sub("^https://example.com/app", url, route.request.url)
        assert address.startswith(url)
        route.fulfill(response=route.fetch(url=address))

    watched.page.route("https://example.com/**", remove_prefix)
    for path, send, done in [
        ("reset", Visit.change, CHANGED),
        ("verify", FORMS["confirm"][1], CONFIRMED),
    ]:
        visited = Visit(watched, f"https://example.com/app/{path}#token={TOKEN}")
        send(visited)
        visited.assert_says(done)
        assert visited.page.url == f"https://example.com/app/{path}"
        (called,) = visited.api.calls
        assert called[1].startswith("https://example.com/app/api/")
    assert watched.errors == []
    assert all(address.startswith("https://example.com/app/") for address in watched.requests)


@pytest.mark.parametrize("path", ["/reset", "/verify"])
def test_without_javascript_a_page_says_that_it_needs_it(open_page, url, path):
    page = open_page(java_script_enabled=False).page
    page.goto(f"{url}{path}#token={TOKEN}")
    # No `get_by_text`: it never looks into <noscript>.
    expect(page.locator("noscript p")).to_be_visible()
    expect(page.locator("noscript p")).to_contain_text("This page needs JavaScript.")
    expect(page.locator("form:visible, section:visible")).to_have_count(0)


def test_the_words_of_a_translated_page_are_its_own(open_page, url):
    watched = open_page()

    def translate(route):
        page = route.fetch().text().replace('lang="en"', 'lang="de"')
        page = page.replace("That was too often. Try again", "Das war zu oft. Wieder")
        route.fulfill(body=page, content_type="text/html")

    watched.page.route("**/reset", translate)
    visited = Visit(watched, f"{url}/reset")
    visited.api.refuse(429, headers={"Retry-After": "300"})
    visited.ask()
    visited.assert_says("Das war zu oft. Wieder in 5 Minuten.")


LUMINANCE = """(selectors) => {
    // WCAG 2.2: the contrast of an element's text to what is painted behind it.
    const parse = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => {
        const [r, g, b] = parse(color).map((part) => {
            const c = part / 255;
            return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return parse(color)[3] === 0 ? behind(element.parentElement) : color;
    };
    return selectors.flatMap((selector) => [...document.querySelectorAll(selector)])
        .filter((element) => element.checkVisibility())
        .map((element) => {
            const pair = [getComputedStyle(element).color, behind(element)].map(luminance);
            return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_texts_have_contrast_in_light_and_in_dark(visit, scheme):
    texts = ["header", "h1", "p", "label", "input", "button", "a"]
    visited = visit(f"/reset#token={TOKEN}", color_scheme=scheme)
    paper = visited.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(246, 247, 251)") == (scheme == "light")
    ratios = []
    visited.api.refuse(400, message="x", errors={"new_password": ["must be longer"]})
    visited.change()
    expect(visited.password).to_be_focused()
    ratios += visited.page.evaluate(LUMINANCE, texts)
    visited.api.refuse(400, message="the link has expired; ask for a new one")
    visited.change()
    visited.assert_says("The link has expired; ask for a new one.")
    ratios += visited.page.evaluate(LUMINANCE, texts)
    visited.api.answer = {"status": 202}
    visited.ask()
    visited.assert_says(SENT)
    ratios += visited.page.evaluate(LUMINANCE, texts)
    assert len(ratios) > 15
    assert min(ratios) >= 4.5


@pytest.mark.parametrize("form", FORMS)
def test_a_page_fits_a_small_phone_and_a_thumb(visit, form):
    path, send = FORMS[form]
    visited = visit(path, viewport={"width": 320, "height": 568}, has_touch=True)
    assert visited.page.evaluate("document.documentElement.scrollWidth") == 320
    for part in visited.page.locator("button, input:not([type=checkbox]), .choice").all():
        if part.is_visible():
            assert part.bounding_box()["height"] >= 44
            assert float(part.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")) >= 16
    visited.api.refuse(400, message="the_longest_name_of_" * 10)
    send(visited)
    expect(visited.message).to_be_visible()
    assert visited.page.evaluate("document.documentElement.scrollWidth") == 320


def test_the_pages_are_pictured(visit):
    visited = visit(f"/reset#token={TOKEN}", viewport={"width": 390, "height": 640})
    errors = {"new_password": ["must be 8 to 256 characters long"]}
    visited.api.refuse(400, message="x", errors=errors)
    visited.change("curious")
    expect(visited.page.get_by_text("Must be 8 to 256 characters long.")).to_be_visible()
    picture(visited.page, "reset-on-a-phone.png")
    visited = visit(f"/verify#token={TOKEN}", viewport={"width": 800, "height": 500})
    expect(visited.page.get_by_role("button")).to_be_visible()
    picture(visited.page, "verify.png")
