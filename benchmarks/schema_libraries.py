"""What describing a route costs: CPU per request of one route, written four ways, in turns.

Prints the median of seven rounds for each. APIFairy is measured where it is installed.
"""

import statistics
import time
from io import BytesIO
from types import SimpleNamespace

import apiflask
import flask
import flask_httpauth
import flask_marshmallow
import marshmallow

try:
    import apifairy
except ImportError:
    apifairy = None

ROUNDS, REQUESTS = 7, 2000
USER = SimpleNamespace(id=1, username="alice", about_me="Hi", last_seen="2026-01-01T00:00:00+00:00")
PATH = "/api/users/<int:id>"


class UserSchema(flask_marshmallow.Schema):
    id = marshmallow.fields.Integer()
    username = marshmallow.fields.String()
    about_me = marshmallow.fields.String()
    last_seen = marshmallow.fields.String()
    links = marshmallow.fields.Function(
        lambda user: {"self": flask.url_for("get_user", id=user.id)}, data_key="_links"
    )


def bearer(auth):
    auth.verify_token(lambda token: USER if token == "t" else None)
    return auth


def plain_flask():
    app, auth = flask.Flask(__name__), bearer(flask_httpauth.HTTPTokenAuth())

    @app.get(PATH)
    @auth.login_required
    def get_user(id):
        return vars(USER) | {"_links": {"self": flask.url_for("get_user", id=id)}}

    return app


def flask_and_marshmallow():
    app, auth = flask.Flask(__name__), bearer(flask_httpauth.HTTPTokenAuth())
    schema = UserSchema()

    @app.get(PATH)
    @auth.login_required
    def get_user(id):
        return schema.dump(USER)

    return app


def with_apifairy():
    app, auth = flask.Flask(__name__), bearer(flask_httpauth.HTTPTokenAuth())
    flask_marshmallow.Marshmallow(app)
    apifairy.APIFairy(app)

    @app.get(PATH)
    @apifairy.authenticate(auth)
    @apifairy.response(UserSchema())
    def get_user(id):
        return USER

    return app


def with_apiflask():
    app, auth = apiflask.APIFlask(__name__), bearer(apiflask.HTTPTokenAuth())

    @app.get(PATH)
    @app.auth_required(apiflask.MultiAuth(auth, apiflask.HTTPBasicAuth()))
    @app.output(UserSchema)
    def get_user(id):
        return USER

    return app


def microseconds_per_request(app):
    start = time.process_time()
    for _ in range(REQUESTS):
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/api/users/1",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(),
            "HTTP_AUTHORIZATION": "Bearer t",
        }
        body = b"".join(app(environ, lambda *_: None))
    assert b"alice" in body
    return (time.process_time() - start) / REQUESTS * 1e6


def main():
    apps = {"Flask": plain_flask(), "Flask and marshmallow": flask_and_marshmallow()}
    if apifairy is not None:
        apps["APIFairy"] = with_apifairy()
    apps["APIFlask"] = with_apiflask()
    figures = {name: [] for name in apps}
    for _ in range(ROUNDS):
        for name, app in apps.items():
            figures[name].append(microseconds_per_request(app))
    base = statistics.median(figures["Flask"])
    for name, values in figures.items():
        median = statistics.median(values)
        print(f"{name:22} {median:6.1f} us  {median / base:.2f}")


if __name__ == "__main__":
    main()
