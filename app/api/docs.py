"""`/openapi.json`, and the page `/docs` that shows it; `/` redirects there."""

from importlib import resources
from pathlib import Path
from typing import Any, cast

from apiflask import APIBlueprint, APIFlask
from flask import current_app, redirect, send_from_directory, url_for

from app.api.openapi import document
from app.auth import public
from app.http.errors import found
from app.http.headers import request
from app.http.html import html_page

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


@bp.get("/")
@public
def index() -> Any:
    return redirect(url_for(".get_page"))


@bp.get("/docs")
@public
def get_page() -> Any:
    # Swagger UI has its icons in its style sheet.
    return html_page("index.html", images="'self' data:")


@bp.get("/docs/<name>")
@public
def get_file(name: str) -> Any:
    return send_from_directory(found(_FILES.get(name)), name)


@bp.get("/openapi.json")
@public
def get_document() -> Any:
    made = current_app.extensions.setdefault("openapi", {})
    path = request.root_path
    if path not in made:  # once: the routes do not change
        said = document(cast("APIFlask", current_app))
        # By default, the root of the host.
        servers = {"servers": [{"url": path}]} if path else {}
        made[path] = current_app.json.dumps(servers | said)
    response = current_app.response_class(made[path], mimetype="application/json")
    response.add_etag()
    return response.make_conditional(request)
