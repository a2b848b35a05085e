"""The routes: one module per resource, each with a Blueprint of its own."""

from apiflask import APIFlask
from werkzeug.routing import IntegerConverter

from app.api import access_tokens, docs, following, posts, tokens, users


class AsciiInteger(IntegerConverter):
    """`<int:...>` in a route: up to 18 ASCII digits, which is what the database can compare.

    Werkzeug's takes the digits of every script, and any number of them.
    """

    regex = "[0-9]{1,18}"


def init_app(app: APIFlask) -> None:
    app.url_map.converters["int"] = AsciiInteger
    # "//" is 404, not a redirect to whatever Host the client has sent.
    app.url_map.merge_slashes = False
    for module in (users, tokens, access_tokens, following, posts):  # as the document has them
        app.register_blueprint(module.bp, url_prefix="/api")
    app.register_blueprint(docs.bp)
