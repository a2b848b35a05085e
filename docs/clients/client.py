"""A small client: it logs in as a device, keeps its token, and knows why a token ends.

    pip install requests
    python client.py http://127.0.0.1:5000 alice

Reads the user of the account. The token is kept in `token.json`; run it again, and nobody
asks for the password.
"""

import argparse
import getpass
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from requests.utils import parse_dict_header

SECONDS = 30  # to wait for an answer; a log in waits for its turn


class LoggedOutError(Exception):
    """The token was revoked: somebody has logged this device out, or changed the password."""


class Client:
    """Sends requests as one user.

    Args:
        url: of the server, as in "http://127.0.0.1:5000".
        username: or e-mail address.
        ask_password: called when a password is needed.
        file: where the token is kept, for its owner only.
    """

    def __init__(
        self, url: str, username: str, ask_password: Callable[[], str], file: Path
    ) -> None:
        self._url, self._username = url, username
        self._ask_password, self._file = ask_password, file
        self._session = requests.Session()
        self._session.trust_env = False  # .netrc would replace the token
        self._kept = self._read()

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """Send a request with the token; log in or renew the token where that is needed.

        Raises:
            LoggedOutError: the token was revoked. The next request logs in.
            requests.RequestException: the password is wrong, or the server does not answer.
        """
        options["headers"] = headers or {}
        if not self._kept:
            self.log_in()
        elif time.time() > self._kept["renew_at"]:
            self._renew()
        response = self._send(method, path, **options)
        if self._must_log_in(response):
            self.log_in()
            response = self._send(method, path, **options)  # a 401 has changed nothing
        return response

    def log_in(self) -> None:
        body = {"username": self._username, "password": self._ask_password()}
        body["device"] = platform.node()[:64] or "a client"
        response = self._session.post(f"{self._url}/api/tokens", json=body, timeout=SECONDS)
        if not response.ok:
            text = response.json().get("message", "wrong user name or password")
            raise requests.HTTPError(text, response=response)
        if self._kept:
            self._send("DELETE", "/api/tokens")  # the former one of this device
        self._keep(response)

    def log_out(self) -> None:
        self._send("DELETE", "/api/tokens")
        self._forget()

    def _renew(self) -> None:
        response = self._send("PUT", "/api/tokens")
        if self._must_log_in(response):
            self.log_in()
        elif response.ok:  # else the old one is good for a while
            self._keep(response)

    def _must_log_in(self, response: requests.Response) -> bool:
        """Return whether another log in will help; forget a token that was revoked."""
        if response.status_code != requests.codes.unauthorized:
            return False
        _scheme, _, parameters = response.headers["WWW-Authenticate"].partition(" ")
        challenge = parse_dict_header(parameters)
        if challenge.get("error_description") == "the token is not valid":
            self._forget()
            raise LoggedOutError("logged out from elsewhere, or by a new password")
        return True  # it has expired, or the log in is too old for this request

    def _send(
        self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any
    ) -> requests.Response:
        headers = (headers or {}) | {"Authorization": f"Bearer {self._kept.get('token')}"}
        return self._session.request(
            method, self._url + path, headers=headers, timeout=SECONDS, **options
        )

    # -- The file ----------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        """Return what is kept for this user at this server: never send it to another."""
        try:
            kept: dict[str, Any] = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        is_ours = (kept.get("url"), kept.get("username")) == (self._url, self._username)
        return kept if is_ours else {}

    def _keep(self, response: requests.Response) -> None:
        answer = response.json()
        # Renewed at its half, so that a token in use never expires.
        renew_at = time.time() + answer["expires_in"] / 2
        self._kept = {"url": self._url, "username": self._username}
        self._kept |= {"token": answer["token"], "renew_at": renew_at}
        new = self._file.with_suffix(".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._kept, file)
        new.replace(self._file)

    def _forget(self) -> None:
        self._kept = {}
        self._file.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("username")
    options = parser.parse_args()
    client = Client(options.url, options.username, getpass.getpass, Path("token.json"))
    try:
        print(client.request("GET", "/api/users/me").json())
    except (LoggedOutError, requests.RequestException) as error:
        sys.exit(str(error))
