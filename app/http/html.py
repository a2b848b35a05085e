"""HTML pages. They load nothing but their own files, and send nothing elsewhere."""

from flask import Response, current_app, render_template

from app.http.headers import request


def html_page(template: str, *, images: str = "'self'") -> Response:
    """Return a page that browsers check for a newer version each time.

    Args:
        template: gets `APP_NAME` as `title`. It has no inline scripts or styles, and its
            paths are relative: a proxy may serve it under a prefix.
        images: where they may come from, as in a Content-Security-Policy.
    """
    page = render_template(template, title=current_app.config["APP_NAME"])
    response = current_app.make_response(page)
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {images}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    response.cache_control.no_cache = True
    response.add_etag()
    response.make_conditional(request)
    return response
