"""What is believed of a request's headers, and what every response carries."""

import secrets
from typing import cast

import flask
from flask import Flask, Response, current_app
from flask_cors import CORS
from werkzeug.datastructures import Authorization
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.utils import cached_property

_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_HSTS = "max-age=31536000"  # a year, in seconds; OWASP ASVS 5.0, 3.4.1

# What a script in a page of another origin may send and read, beyond what any may.
_CORS_MAY_SEND = ("Authorization", "Content-Type", "X-Requested-With")
_CORS_MAY_READ = ("Location", "Retry-After", "WWW-Authenticate", "X-Request-Id")
_CORS_MAX_AGE = 600  # seconds that a browser need not ask again


class Request(flask.Request):
    @cached_property
    def id(self) -> str:
        """What the log lines of this request, and its response, have in common."""
        return secrets.token_hex(16)

    @cached_property
    def authorization(self) -> Authorization | None:
        """The credentials, or `None` if there are none or they cannot be read."""
        try:
            return super().authorization
        except ValueError:  # Werkzeug's, on Basic credentials that are not ASCII
            return None


request = cast("Request", flask.request)


def init_app(app: Flask) -> None:
    app.request_class = Request
    hops = app.config["TRUSTED_PROXIES"]
    if hops:
        # Each proxy adds an address to X-Forwarded-For, and sets X-Forwarded-Proto anew.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=1, x_host=0)  # type: ignore[method-assign]  # as Flask documents it
    app.after_request(_add_headers)
    origins = app.config["CORS_ORIGINS"]
    if origins:
        CORS(
            app,
            origins=origins,
            allow_headers=_CORS_MAY_SEND,
            expose_headers=_CORS_MAY_READ,
            max_age=_CORS_MAX_AGE,
            send_wildcard=True,  # for `*`, the same answer to everybody
            always_send=False,  # not to who is no page
        )


def _add_headers(response: Response) -> Response:
    response.headers["X-Request-Id"] = request.id
    for name, value in _SAFE.items():
        response.headers.setdefault(name, value)
    if current_app.config["CORS_ORIGINS"]:
        response.vary.add("Origin")  # also where none is let in, for caches
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = _HSTS
    return response
