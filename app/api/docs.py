"""`/openapi.json`, and the page that shows it: `/docs`, to which `/` leads."""

from importlib import resources
from pathlib import Path
from typing import Any, cast

from apiflask import APIBlueprint, APIFlask
from flask import current_app, redirect, request, send_from_directory, url_for

from app.auth import public
from app.errors import found
from app.openapi import document

bp = APIBlueprint("docs", __name__, enable_openapi=False)

_OWN = Path(__file__).parent.parent / "static" / "docs"
_SWAGGER_UI = Path(str(resources.files("flask_swagger_ui"))) / "dist"
_FILES = {
    "page.css": _OWN,
    "page.js": _OWN,
    "icon.svg": _OWN,
    "swagger-ui.css": _SWAGGER_UI,
    "swagger-ui-bundle.js": _SWAGGER_UI,
}

# Nothing but its own files, and no request to anywhere else. Swagger UI has its
# icons in its style sheet.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@bp.get("/")
@public
def index() -> Any:
    return redirect(url_for(".get_page"))


@bp.get("/docs")
@public
def get_page() -> Any:
    response = send_from_directory(_OWN, "index.html")
    response.headers["Content-Security-Policy"] = _POLICY
    return response


@bp.get("/docs/<name>")
@public
def get_file(name: str) -> Any:
    return send_from_directory(found(_FILES.get(name)), name)


@bp.get("/openapi.json")
@public
def get_document() -> Any:
    made = current_app.extensions
    if "openapi" not in made:  # the routes are what they are
        made["openapi"] = current_app.json.dumps(document(cast("APIFlask", current_app)))
    response = current_app.response_class(made["openapi"], mimetype="application/json")
    response.add_etag()
    return response.make_conditional(request)
