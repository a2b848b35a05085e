"""`/openapi.json`, and the page `/docs` that shows it; `/` redirects there."""

from importlib import resources
from pathlib import Path
from typing import Any, cast

from apiflask import APIBlueprint, APIFlask
from flask import current_app, redirect, render_template, send_from_directory, url_for

from app.api.openapi import document
from app.auth import public
from app.http.errors import found
from app.http.headers import request

_OWN = Path(__file__).parent.parent / "static" / "docs"
bp = APIBlueprint("docs", __name__, enable_openapi=False, template_folder=str(_OWN))

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
    page = render_template("index.html", title=current_app.config["APP_NAME"])
    response = current_app.make_response(page)
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
    if "openapi" not in made:  # once: the routes do not change
        made["openapi"] = current_app.json.dumps(document(cast("APIFlask", current_app)))
    response = current_app.response_class(made["openapi"], mimetype="application/json")
    response.add_etag()
    return response.make_conditional(request)
