"""The routes: one module per resource, each with a Blueprint of its own."""

from apiflask import APIFlask

from app.api import tokens, users


def init_app(app: APIFlask) -> None:
    for module in (tokens, users):
        app.register_blueprint(module.bp, url_prefix="/api")
