"""The application factory: it assembles, and decides nothing."""

from apiflask import APIFlask

from app import api, audit, auth, cli, errors, extensions, headers, passwords, throttle
from app.extensions import db
from config import Config, secret_key_of_instance

__all__ = ["create_app", "db"]


def create_app(config_class: type[Config] = Config) -> APIFlask:
    app = APIFlask(
        __name__,
        title="Microblog API",
        version="0.1.0",  # as in pyproject.toml
        enable_openapi=False,  # app/api/docs.py has its own
        static_folder=None,  # type: ignore[arg-type]  # Flask takes it
    )
    app.config.from_object(config_class)
    app.config["SECRET_KEY"] = app.config["SECRET_KEY"] or secret_key_of_instance(
        app.config["SQLALCHEMY_DATABASE_URI"], app.instance_path
    )
    app.config["VALIDATION_ERROR_STATUS_CODE"] = 400
    app.json.sort_keys = False  # type: ignore[attr-defined]  # fields come in the order of the schemas

    extensions.init_app(app)
    passwords.init_app(app)
    headers.init_app(app)
    audit.init_app(app)
    throttle.init_app(app)
    errors.init_app(app)
    auth.init_app(app)
    api.init_app(app)
    cli.init_app(app)
    return app
