"""A browser for tests: `Watched` pages, and pictures of them."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium")
# A folder for screenshots of the pages: SCREENSHOTS=docs ./test.sh -k browser
SCREENSHOTS = os.environ.get("SCREENSHOTS")

expect.set_options(timeout=20_000)  # milliseconds; machines may be slow


@contextmanager
def chromium():
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *quiet]
        )
        yield browser
        browser.close()


class Watched:
    """A page, with its requests, errors and password dialogs."""

    def __init__(self, page):
        self.page = page
        self.requests, self.errors, self.dialogs = [], [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self.note_message)
        self.devtools = page.context.new_cdp_session(page)
        self.devtools.on("Fetch.requestPaused", self.let_pass)
        self.devtools.on("Fetch.authRequired", self.note_dialog)
        self.devtools.send("Fetch.enable", {"handleAuthRequests": True})

    def note_message(self, message):
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)

    def let_pass(self, event):
        self.devtools.send("Fetch.continueRequest", {"requestId": event["requestId"]})

    def note_dialog(self, event):
        """Record that the browser would open its own password dialog."""
        self.dialogs.append(event["request"]["url"])
        answer = {"authChallengeResponse": {"response": "CancelAuth"}}
        self.devtools.send("Fetch.continueWithAuth", {"requestId": event["requestId"], **answer})


def picture(page, name):
    if SCREENSHOTS is not None:
        page.screenshot(path=Path(SCREENSHOTS) / name)
