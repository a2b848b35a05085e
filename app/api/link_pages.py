"""The pages `/reset` and `/verify`, to which the links in mails lead.

The token of a link stands behind its `#`, which browsers do not send: no log has it.
"""

from pathlib import Path
from typing import Any

from apiflask import APIBlueprint
from flask import send_from_directory

from app.auth import public
from app.http.errors import found
from app.http.html import html_page

_STATIC = Path(__file__).parent.parent / "static"
_OWN = _STATIC / "pages"
bp = APIBlueprint("pages", __name__, enable_openapi=False, template_folder=str(_OWN))

_FILES = {
    "page.css": _OWN,
    "page.js": _OWN,
    "icon.svg": _STATIC / "docs",
}


@bp.get("/reset")
@public
def get_reset() -> Any:
    return html_page("reset.html")


@bp.get("/verify")
@public
def get_verify() -> Any:
    return html_page("verify.html")


@bp.get("/pages/<name>")
@public
def get_file(name: str) -> Any:
    return send_from_directory(found(_FILES.get(name)), name)
