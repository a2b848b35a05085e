"""The application factory: it assembles, and decides nothing."""

from apiflask import APIFlask
from werkzeug.routing import IntegerConverter

from app import api, auth, errors
from app.extensions import db, engine_options, migrate
from config import Config, secret_key_of_instance

__all__ = ["create_app", "db"]


class Id(IntegerConverter):
    """`<int:...>` in a route: ASCII digits without a sign, that fit the column; else it is 404."""

    regex = "[1-9][0-9]{0,17}"


def create_app(config_class: type[Config] = Config) -> APIFlask:
    app = APIFlask(__name__, title="Microblog API", enable_openapi=False)
    app.config.from_object(config_class)
    uri = app.config["SQLALCHEMY_DATABASE_URI"]
    app.config["SECRET_KEY"] = app.config["SECRET_KEY"] or secret_key_of_instance(
        uri, app.instance_path
    )
    app.config.setdefault(
        "SQLALCHEMY_ENGINE_OPTIONS", engine_options(uri, app.config["WEB_THREADS"])
    )
    app.config["VALIDATION_ERROR_STATUS_CODE"] = 400
    app.json.sort_keys = False  # type: ignore[attr-defined]  # fields come in the order of the schemas
    app.url_map.converters["int"] = Id

    db.init_app(app)
    migrate.init_app(app, db)
    errors.init_app(app)
    app.before_request(auth.refuse_tokens_in_query)
    api.init_app(app)
    return app
