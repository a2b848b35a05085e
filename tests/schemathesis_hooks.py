"""Hooks for Schemathesis: its credentials, and the valid requests that may be refused."""

import itertools
import os
import re
from collections import Counter

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

from app import db
from app.mail.links import Purpose, make_link
from app.models import User
from microblog_api import app
from tests.helpers import basic, bearer

LINKS = {
    "PUT /api/tokens/reset": Purpose.RESET,
    "POST /api/email-verifications": Purpose.VERIFY,
}
PASSWORD = "Cheshire grin"  # unlike the examples, so that no request changes it by chance

# The messages of a 400 to a request that is valid by its schema.
KNOWN_REASONS = re.compile(
    "please use a different (username|email address)"
    "|email must be a valid email address"  # a reserved domain, such as .test
    "|name must be other than those of your live tokens"
    "|limit must be a number per time"  # above ACCESS_TOKEN_LIMIT
    "|limit of 1000 access tokens reached"
    "|you cannot deactivate yourself here"
    "|you cannot follow yourself"  # microblog
    "|the link is not valid"
    "|your e-mail address is verified already"
    "|(new_)?password must .*"
)


# Hypothesis alone generates valid addresses that are mostly unlike real ones.
schemathesis.openapi.format(
    "email",
    st.emails() | st.from_regex(r"[a-z0-9]{1,20}@[a-z0-9]{1,20}\.example", fullmatch=True),
)


class Account:
    """A registered user; another one is registered after the user was deactivated."""

    names = (f"cheshire{number}" for number in itertools.count(1))

    def __init__(self, url):
        self.url = url
        self.register()
        self.somebody_else = self.id  # microblog
        self.register()  # microblog

    def register(self):
        self.name = next(self.names)
        email = f"{self.name}@example.com"
        self.id = self.create("users", username=self.name, email=email, password=PASSWORD)

    def create(self, what, **body):
        """Create a resource; return its id."""
        url, headers = f"{self.url}/api/{what}", basic(self.name, PASSWORD)
        answer = requests.post(url, json=body, headers=headers, timeout=20)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def id_for(self, path):
        """Return the id of an existing resource, preferably one that the user owns."""
        if "/posts/{" in path:  # microblog
            return self.create("posts", body="Curiouser")  # microblog
        if "/access-tokens/{" in path:
            return self.create("access-tokens", name=next(self.names), scope="read", expires_in=60)
        if "/following/{" in path:  # microblog
            return self.somebody_else  # microblog
        return self.id

    def link_token(self, purpose):
        """Return the token of a link in a mail to a new user."""
        self.register()
        with app.app_context():
            return make_link(purpose, db.session.get(User, self.id)).partition("#token=")[2]

    def log_in(self):
        headers = basic(self.name, PASSWORD)
        answer = requests.post(f"{self.url}/api/tokens", headers=headers, timeout=20)
        if answer.status_code == 401:
            self.register()
            return self.log_in()
        return answer.json()["token"]


@schemathesis.auth(refresh_interval=None)
class Credentials:
    """Valid credentials for each request, in turn for each scheme of the document."""

    def __init__(self):
        self.account = Account(os.environ["API_URL"])
        self.ways = itertools.cycle(["Bearer", "token as user name", "password"])
        self.requests = Counter()

    def get(self, case, _context):
        needed = case.operation.definition.raw["security"]
        if not needed:
            return {}
        if case.operation.path.endswith("/email-verification"):
            self.account.register()  # whose address is not verified
        token = self.account.log_in()
        password = basic(self.account.name, PASSWORD)
        if "/admin/" in case.operation.path:  # as the administrator of test_contract.py
            password = basic("root", os.environ["ADMIN_PASSWORD"])
            url = f"{self.account.url}/api/tokens"
            token = requests.post(url, headers=password, timeout=20).json()["token"]
        if needed == [{"Password": []}]:
            return password
        ways = {
            "Bearer": bearer(token),
            "token as user name": basic(token, ""),
            "password": password,
        }
        return ways[next(self.ways)]

    def set(self, case, data, _context):
        case.headers.update(data)
        # Who only asks for what is not there never gets far. Not while one
        # request uses what another has made: its owner must stay.
        self.requests[case.operation.label] += 1
        if case.meta.phase.name == TestPhase.STATEFUL or self.requests[case.operation.label] % 2:
            return
        # Keep an id that is invalid on purpose.
        if "id" in case.path_parameters and not case.meta.is_negative_at(ParameterLocation.PATH):
            case.path_parameters["id"] = self.account.id_for(case.operation.path)
        if case.operation.path.endswith("/password") and case.meta.generation.mode.is_positive:
            case.body["current_password"] = PASSWORD
        purpose = LINKS.get(case.operation.label)
        if purpose and case.meta.generation.mode.is_positive:
            case.body |= {"token": self.account.link_token(purpose)}
            if "new_password" in case.body:
                case.body["new_password"] = PASSWORD
        if case.operation.label == "PUT /api/users/{id}" and case.meta.generation.mode.is_positive:
            for name in ("username", "email"):  # the example's are taken
                case.body.pop(name, None)


@schemathesis.check
def refused_for_a_known_reason(_context, response, case):
    if response.status_code == 400 and case.meta and case.meta.generation.mode.is_positive:
        message = response.json()["message"]
        assert KNOWN_REASONS.search(message), f"a well-formed request is refused: {message}"


@schemathesis.check
def refuses_a_device_that_cannot_be(_context, response, case):
    body = case.body
    if case.operation.label == "POST /api/tokens" and isinstance(body, dict) and "device" in body:
        device = body["device"]
        can_be = isinstance(device, str) and 1 <= len(device) <= 64
        assert can_be or response.status_code >= 400, f"logged in with the device {device!r}"
