"""Requests and responses: trusted headers, those that every response has, and paths."""

import re
import secrets
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, cast

import flask
from apiflask import abort
from flask import Flask, Response, current_app
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask_cors import CORS
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import Map
from werkzeug.utils import environ_property

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}  # RFC 9110, 9.2.1: they change nothing
HEALTH_PATHS = {"/livez", "/readyz"}

# Unless the view has set them.
_SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
)
_REQUEST_ID = "microblog_api.request_id"  # in the environment of WSGI
_HSTS = "max-age=31536000"  # a year, in seconds; OWASP ASVS 5.0, 3.4.1

# What a script of an allowed origin may send and read, beyond the safe-listed headers.
_CORS_MAY_SEND = ("Authorization", "Content-Type", "X-Requested-With")
_CORS_MAY_READ = (
    *("Location", "RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate"),
    *("X-Request-Id", "X-Token-Expires-In"),
)
_CORS_MAX_AGE = 600  # seconds for which a browser keeps the answer to its preflight


class Request(flask.Request):
    credential: Any = None  # what opened it, set by app.auth
    # One role of each group is required; set by `roles_required` of app.auth.
    required_roles: tuple[tuple[str, ...], ...] = ()

    _trusted_hosts: list[str] | None = None

    def __init__(self, environ: "WSGIEnvironment", *args: Any, **kwargs: Any) -> None:
        # A host is the same in any case (RFC 9110, 4.2.3), which Werkzeug does not know.
        if "HTTP_HOST" in environ:
            environ["HTTP_HOST"] = environ["HTTP_HOST"].lower()
        super().__init__(environ, *args, **kwargs)

    @property
    def trusted_hosts(self) -> list[str] | None:
        """`TRUSTED_HOSTS`; none for checks of health, which come to the address of a machine."""
        return None if self.path in HEALTH_PATHS else self._trusted_hosts

    @trusted_hosts.setter
    def trusted_hosts(self, names: list[str] | None) -> None:
        self._trusted_hosts = names

    @property
    def has_body(self) -> bool:
        """Whether there is a body. A chunked one has no length if the server has not read it.

        Such servers (`flask run`, gunicorn) set `wsgi.input_terminated`.
        """
        is_chunked = "HTTP_TRANSFER_ENCODING" in self.environ
        return bool(
            self.content_length or (is_chunked and self.environ.get("wsgi.input_terminated"))
        )

    # Random; the response and the log lines of this request share it.
    id = environ_property[str](_REQUEST_ID)


request = cast("Request", flask.request)


class _Sessions(SecureCookieSessionInterface):
    """Flask's cookie sessions, for views that use them; to others they cost nothing."""

    def open_session(self, app: Flask, request: flask.Request) -> SecureCookieSession | None:
        if "HTTP_COOKIE" in request.environ:
            return super().open_session(app, request)
        return self.session_class()

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        if session.accessed or session.modified or session.permanent:
            super().save_session(app, session, response)


def init_app(app: Flask) -> None:
    app.request_class = Request
    if app.config["SCRIPT_NAME"]:
        app.wsgi_app = _UnderPath(app.wsgi_app, app.config["SCRIPT_NAME"])  # type: ignore[method-assign]  # as Flask documents it
    app.wsgi_app = _ResponseHeaders(app.wsgi_app)  # type: ignore[method-assign]  # as Flask documents it
    hops = app.config["TRUSTED_PROXIES"]
    if hops:
        # Each proxy appends an address to X-Forwarded-For and replaces X-Forwarded-Proto.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=1, x_host=0)  # type: ignore[method-assign]  # likewise
    app.do_teardown_request = _logging_failures(app.do_teardown_request)  # type: ignore[method-assign]  # Flask has no hook
    app.do_teardown_appcontext = _logging_failures(app.do_teardown_appcontext)  # type: ignore[method-assign]  # likewise
    app.session_interface = _Sessions()
    hosts = app.config["TRUSTED_HOSTS"]
    if hosts is not None:
        names = [hosts] if isinstance(hosts, str) else hosts  # Werkzeug takes one name as well
        app.config["TRUSTED_HOSTS"] = [name.lower() for name in names]
    app.url_value_preprocessor(_refuse_slashes)  # before the metrics note its route
    app.before_request(_refuse_tokens_in_query)
    origins = app.config["CORS_ORIGINS"]
    if origins:
        app.after_request(_vary_by_origin)
        CORS(
            app,
            origins=origins,
            allow_headers=_CORS_MAY_SEND,
            expose_headers=_CORS_MAY_READ,
            max_age=_CORS_MAX_AGE,
            send_wildcard=True,  # `*` is answered with `*`
            always_send=False,  # only where the request has an Origin
        )


def _refuse_slashes(*_: Any) -> None:
    """Answer 404: Werkzeug takes `//api` for `/api`, but a proxy that guards `/api` does not."""
    if request.environ["PATH_INFO"].startswith("//"):
        abort(404)


def _refuse_tokens_in_query() -> None:
    """Answer 400: addresses end up in logs, histories and Referer headers (RFC 6750, 5.3)."""
    if request.query_string and not {"token", "access_token"}.isdisjoint(request.args):
        abort(400, "send the token in the Authorization header, never in the address")


def _vary_by_origin(response: Response) -> Response:
    response.vary.add("Origin")  # for caches, also where no origin is allowed
    return response


def _logging_failures(tear_down: Callable[..., None]) -> Callable[..., None]:
    """Let the response, which is complete, be sent also if what follows it fails."""

    @wraps(tear_down)
    def run(*args: Any) -> None:
        try:
            tear_down(*args)
        except Exception:
            current_app.logger.exception("a teardown function has failed")

    return run


class _UnderPath:
    """WSGI middleware for a proxy that serves the application under a path."""

    def __init__(self, wsgi_app: "WSGIApplication", path: str) -> None:
        self._wsgi_app, self._path = wsgi_app, path

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        if not environ.get("SCRIPT_NAME"):  # a server such as gunicorn has set it
            environ["SCRIPT_NAME"] = self._path
            if f"{environ['PATH_INFO']}/".startswith(f"{self._path}/"):
                # The proxy has left it.
                environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(self._path) or "/"
        return self._wsgi_app(environ, start_response)


class _ResponseHeaders:
    """WSGI middleware that adds the headers of every response.

    All at once: through `Response.headers`, one by one, takes 10 % of a request.
    """

    def __init__(self, wsgi_app: "WSGIApplication") -> None:
        self._wsgi_app = wsgi_app

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        id = environ[_REQUEST_ID] = secrets.token_hex(16)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            present = {name.lower() for name, _ in headers}
            added = [("X-Request-Id", id)]
            added += [item for item in _SECURITY_HEADERS if item[0].lower() not in present]
            if "HTTP_AUTHORIZATION" in environ:
                # A cache between the client and us must not give it to somebody else.
                added.append(("Cache-Control", "no-store"))
            if environ["wsgi.url_scheme"] == "https":
                added.append(("Strict-Transport-Security", _HSTS))
            replaced = present.intersection(name.lower() for name, _ in added)
            if replaced:
                headers = [item for item in headers if item[0].lower() not in replaced]
            return start_response(status, headers + added, exc_info)

        return self._wsgi_app(environ, start)


# -- Paths, for links ------------------------------------------------------------------


def path_to(endpoint: str, **ids: int) -> str:
    """Return the path of a route whose variables are ids, in a request.

    `url_for`, which can do more, takes ten times as long.
    """
    return request.root_path + _template(current_app.url_map, endpoint).format_map(ids)


@lru_cache
def _template(url_map: Map, endpoint: str) -> str:
    """Return `/users/{id}` for `/users/<int:id>`."""
    rule = next(url_map.iter_rules(endpoint))
    return re.sub(r"<(?:[^<>]*:)?(\w+)>", r"{\1}", rule.rule)
