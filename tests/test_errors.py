"""Every error is JSON of one shape, for every path and status."""

import pytest
import sqlalchemy as sa

from app import create_app, db
from app.models import User
from tests.helpers import PASSWORD, bearer


@pytest.mark.parametrize("accept", [None, "*/*", "text/html", "application/xml"])
@pytest.mark.parametrize(
    "path", ["/nowhere/", "/nothing", "/api", "/api/users/", "/api/%00", "/%ff"]
)
def test_an_unknown_path_is_404_in_json(client, path, accept):
    response = client.get(path, headers={"Accept": accept} if accept else {})
    assert response.status_code == 404
    assert response.content_type == "application/json"
    assert response.json == {
        "error": "Not Found",
        "message": "there is nothing at this address",
    }


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/api/users", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", "/api/users/1", {"DELETE", "GET", "HEAD", "OPTIONS", "PUT"}),
        ("PATCH", "/api/tokens", {"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"}),
        ("FOO", "/api/users/me", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_405_in_json_and_names_the_right_ones(client, method, path, allowed):
    response = client.open(path, method=method)
    assert response.status_code == 405
    assert response.json["error"] == "Method Not Allowed"
    assert set(response.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/nothing", "/api/users"])
def test_a_head_request_is_answered_without_a_body(client, path):
    response = client.head(path)
    assert response.status_code in (401, 404)
    assert response.data == b""


def test_an_exception_is_500_in_json_without_a_traceback(app, client, token, monkeypatch, caplog):
    app.config["PROPAGATE_EXCEPTIONS"] = False
    monkeypatch.setattr("app.auth.credential.look_up_login_token", lambda _: 1 / 0)
    response = client.get("/api/users/me", headers=bearer(token))
    assert response.status_code == 500
    assert response.json == {
        "error": "Internal Server Error",
        "message": "the server failed to answer; the fault is on our side",
    }
    assert "ZeroDivisionError" in caplog.text


def test_a_statement_the_database_rejects_is_500_and_not_503(app, client, token):
    """After a 503, clients would retry; a missing column needs a fix."""
    app.config["PROPAGATE_EXCEPTIONS"] = False
    with app.app_context():
        db.engine.dispose()  # other connections to SQLite would remember the old columns
        db.session.execute(sa.text('ALTER TABLE "user" RENAME COLUMN about_me TO about'))
        db.session.commit()
    try:
        assert client.get("/api/users/me", headers=bearer(token)).status_code == 500
    finally:
        with app.app_context():
            db.session.execute(sa.text('ALTER TABLE "user" RENAME COLUMN about TO about_me'))
            db.session.commit()


def test_a_constraint_violation_that_is_no_conflict_raises_an_integrity_error(app):
    with app.app_context(), pytest.raises(sa.exc.IntegrityError) as error:
        User.register(username="alice", email=None, password=PASSWORD)
    # The error is logged, so it must not contain the hash or the e-mail address.
    assert "hide_parameters" in str(error.value)


def test_a_pool_without_a_free_connection_is_503(app, client, token, monkeypatch):
    def time_out(_):
        raise sa.exc.TimeoutError("no connection is free")

    monkeypatch.setattr("app.auth.credential.look_up_login_token", time_out)
    response = client.get("/api/users/me", headers=bearer(token))
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert response.json == {
        "error": "Service Unavailable",
        "message": "the database does not answer; try again shortly",
    }


def test_an_error_of_the_orm_itself_is_500(app, client, token, monkeypatch):
    def fail(_):
        raise sa.exc.InvalidRequestError("ours")

    app.config["PROPAGATE_EXCEPTIONS"] = False
    monkeypatch.setattr("app.auth.credential.look_up_login_token", fail)
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 500


@pytest.mark.parametrize("register", ["teardown_request", "teardown_appcontext"])
def test_an_answer_is_sent_although_a_teardown_function_fails(config_class, register, caplog):
    app = create_app(config_class)
    getattr(app, register)(lambda _error: 1 / 0)
    response = app.test_client().get("/api/nothing")
    assert (response.status_code, response.json["error"]) == (404, "Not Found")
    assert caplog.text.count("ZeroDivisionError") == 1
    with app.app_context():
        db.engine.dispose()
