"""The application factory: it assembles, and decides nothing."""

from apiflask import APIFlask

from app import api, auth, cli, extensions, http, mail
from app.extensions import db
from app.security import passwords, rate_limits
from config import Config, secret_key_of_instance

__all__ = ["create_app", "db"]


def create_app(config_class: type[Config] = Config) -> APIFlask:
    """Return the application.

    Raises:
        config.ConfigError: names each setting that cannot be used.
    """
    config_class.check()
    app = APIFlask(
        __name__,
        title=config_class.APP_NAME,
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

    for part in (extensions, passwords, rate_limits, mail, http, auth, api, cli):
        part.init_app(app)
    return app
