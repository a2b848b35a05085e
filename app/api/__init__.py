"""The routes: one module and one blueprint for each resource."""

from apiflask import APIFlask
from werkzeug.routing import IntegerConverter

from app.api import (
    access_tokens,
    admin,
    docs,
    email_verifications,
    following,  # microblog
    health,
    link_pages,
    password_reset,
    posts,  # microblog
    sessions,
    tokens,
    users,
)


class AsciiInteger(IntegerConverter):
    """`<int:...>` in a route: up to 18 ASCII digits, which the database can compare.

    Werkzeug's takes any number of digits, of every script.
    """

    regex = "[0-9]{1,18}"


def init_app(app: APIFlask) -> None:
    app.url_map.converters["int"] = AsciiInteger
    # "/api//users" is 404; Werkzeug would redirect to the Host that the client has sent.
    app.url_map.merge_slashes = False
    for module in (  # in the order of the document
        users,
        tokens,
        sessions,
        access_tokens,
        password_reset,
        email_verifications,
        following,  # microblog
        posts,  # microblog
        admin,
    ):
        app.register_blueprint(module.bp, url_prefix="/api")
    app.register_blueprint(docs.bp)
    app.register_blueprint(link_pages.bp)
    app.register_blueprint(health.bp)
