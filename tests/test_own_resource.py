"""Views and schemas that a developer adds to the API."""

import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa
from apiflask import APIBlueprint, abort
from apiflask.fields import Dict, Integer, List, Nested, String
from flask import url_for
from flask.views import MethodView, View
from marshmallow import ValidationError, validates_schema
from openapi_spec_validator import validate

from app import create_app, db
from app.api.schemas import Answer, Body, StrictBody, Text
from app.auth import (
    any_auth,
    basic_auth,
    current_credential,
    fresh,
    own_account,
    public,
    roles_required,
    token_auth,
)
from app.models import AccessToken, User, grant_role
from tests.helpers import ROOT, basic, bearer, later


class Address(StrictBody):
    city = Text(required=True)
    codes = List(Integer())


class Thing(Body):
    tags = List(Integer())
    address = Nested(Address)
    sizes = Dict(String(), Integer())

    @validates_schema
    def refuse_seven(self, data, **_):
        if data.get("tags") == [7]:
            raise ValidationError({"tags": "no sevens", "address": {"city": "nor cities"}})


class Query(Body):
    ids = List(Integer())


class Name(Answer):
    name = String()


bp = APIBlueprint("things", __name__)


@bp.post("/things")
@public
@bp.input(Thing, arg_name="fields")
def create_thing(fields):
    return fields


@bp.get("/things")
@public
@bp.input(Query, location="query")
def get_things(query_data):
    return query_data


@bp.get("/plain")
@any_auth.login_required
@bp.output(Name)
def plain():
    return {"name": any_auth.current_user().username}


@bp.get("/scoped")
@token_auth.login_required(role="read")
@bp.output(Name)
def scoped():
    return {"name": token_auth.current_user().username}


@bp.get("/optional")
@any_auth.login_required(optional=True, role=["read", "write"])
@bp.output(Name)
def optional():
    user = any_auth.current_user()
    return {"name": user.username if user else "nobody"}


@bp.get("/who")
@public
@bp.output(Name)
def who():
    credential = current_credential()
    assert credential is any_auth.current_credential()
    return {"name": "nobody" if credential is None else credential.scope}


@bp.put("/late/<int:id>")
@public
def change_late(id):
    token = db.session.get(AccessToken, id)
    db.session.commit()
    with db.engine.begin() as other:
        other.execute(sa.delete(AccessToken))
    token.name = "late"
    db.session.commit()
    return ""


class Both(MethodView):
    @bp.auth_required(any_auth, roles=["read"])
    @bp.output(Name)
    def get(self):
        """Read both."""
        return {"name": any_auth.current_user().username}

    @basic_auth.login_required
    @bp.output(Name, 201)
    def post(self):
        """Write both."""
        return {"name": basic_auth.current_user().username}


class Decorated(MethodView):
    decorators = (bp.auth_required(token_auth, roles=["read"]),)

    @bp.output(Name)
    def get(self):
        return {"name": token_auth.current_user().username}


class Forgotten(MethodView):
    @bp.auth_required(any_auth, roles=["read"])
    def get(self):
        return ""

    def post(self):
        return "open to everybody"


class Guarded(MethodView):
    @bp.auth_required(any_auth, roles=["read"])
    @fresh
    def get(self, id):
        return {"id": id}

    @bp.auth_required(any_auth)
    @roles_required("editor")
    def post(self, id):
        return {"id": id}

    @bp.auth_required(any_auth)
    @own_account
    def put(self, word="own"):
        return {"id": word}


class Old(View):
    """Flask's plain class-based view, which has no functions for methods."""

    methods = ("GET",)

    def dispatch_request(self):
        return "open to everybody"


class OldPublic(Old):
    decorators = (public,)


@bp.get("/locked")
@public
def locked():
    abort(409, "the note is locked", detail={"by": "bob"})


@bp.get("/no-scopes")
@bp.auth_required(any_auth, roles=[])
def no_scopes():
    return ""


@bp.route("/options", methods=["GET", "OPTIONS"])
@bp.auth_required(any_auth)
def options():
    return "for those who are logged in"


@bp.put("/bulk")
@bp.auth_required(any_auth, roles=["write"])
def bulk():
    user = any_auth.current_user()
    BETWEEN.pop()()
    db.session.bulk_update_mappings(User, [{"id": user.id, "about_me": "late"}])
    db.session.commit()
    return ""


@bp.put("/savepoint")
@bp.auth_required(any_auth, roles=["write"])
def savepoint():
    user = any_auth.current_user()
    change = sa.update(User).where(User.id == user.id)
    inner = db.session.begin_nested()
    db.session.execute(change.values(about_me="first"))
    inner.rollback()
    BETWEEN.pop()()
    db.session.execute(change.values(about_me="second"))
    db.session.commit()
    return ""


BETWEEN = []  # what the test does between the two writes

for view in (Both, Decorated, Forgotten, Old, OldPublic):
    name = view.__name__.lower()
    bp.add_url_rule(f"/{name}", view_func=view.as_view(name))
guarded = Guarded.as_view("guarded")
bp.add_url_rule("/guarded/<int:id>", view_func=guarded)
bp.add_url_rule("/guarded/<int:id>/<word>", view_func=guarded, methods=["PUT"])


@pytest.fixture
def own(app, config_class):
    """A client of an application with the views above, on the same database."""
    application = create_app(config_class)
    application.register_blueprint(bp, url_prefix="/own")
    yield application.test_client()
    with application.app_context():
        db.engine.dispose()


# -- Errors and undeclared views -------------------------------------------------------


def test_the_detail_of_an_own_error_leaves_its_message_as_it_is(own):
    response = own.get("/own/locked")
    assert response.status_code == 409
    assert response.json == {"error": "Conflict", "message": "the note is locked"}


def test_a_plain_class_based_view_is_refused_unless_it_is_public(own):
    assert own.get("/own/old").status_code == 403
    assert own.get("/own/oldpublic").status_code == 200
    assert own.get("/openapi.json").status_code == 200


def test_an_undeclared_view_is_refused_however_it_is_registered(config_class):
    app = create_app(config_class)

    def view():
        return "open to everybody"

    app.get("/one")(view)
    app.get("/two")(view)
    app.add_url_rule("/three", endpoint="three")
    app.add_url_rule("/four", endpoint="four")
    app.view_functions.update(three=view)
    app.view_functions |= {"four": view}
    for path in ("/one", "/two", "/three", "/four"):
        assert app.test_client().get(path).status_code == 403


def test_a_view_is_not_called_for_options_without_credentials(own):
    assert own.options("/own/options").status_code == 401


def test_bulk_methods_of_the_session_are_checked_at_the_commit(own, app, token):
    def change_password():
        with app.app_context():
            db.session.scalar(sa.select(User)).set_password("battery staple")
            db.session.commit()

    def in_a_thread():
        thread = threading.Thread(target=change_password)
        thread.start()
        thread.join(20)

    BETWEEN.append(in_a_thread)
    assert own.put("/own/bulk", headers=bearer(token)).status_code == 401
    with app.app_context():
        assert db.session.scalar(sa.select(User.about_me)) is None


def test_a_savepoint_that_is_rolled_back_does_not_end_the_second_check(own, app, token):
    def change_password():
        def run():
            with app.app_context():
                db.session.scalar(sa.select(User)).set_password("battery staple")
                db.session.commit()

        threads.append(threading.Thread(target=run))
        threads[0].start()
        threads[0].join(1)

    threads = []
    BETWEEN.append(change_password)
    status = own.put("/own/savepoint", headers=bearer(token)).status_code
    threads[0].join(20)
    with app.app_context():
        if db.engine.dialect.name == "postgresql":
            assert status == 401
            assert db.session.scalar(sa.select(User.about_me)) is None
        else:  # which has one writer: the owner waits for the request
            assert status == 200


# -- Bodies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"tags": [1, "x", "y"]}, ["tags.1", "tags.2"]),
        ({"tags": 1}, ["tags"]),
        ({"address": {}}, ["address.city"]),
        ({"address": 1}, ["address"]),
        ({"unknown": 1, "address": {"city": "Rome", "zip": 1}}, ["address.zip"]),
        ({"address": {"city": "Rome", "codes": [1, "x"]}}, ["address.codes.1"]),
        ({"sizes": {"a": "x"}}, ["sizes.a.value"]),
        ({"tags": [7]}, ["tags", "address.city"]),
    ],
)
def test_a_rejected_field_is_named_at_any_depth(own, body, fields):
    response = own.post("/own/things", json=body)
    assert response.status_code == 400
    assert list(response.json["errors"]) == fields
    for name, texts in response.json["errors"].items():
        assert all(isinstance(text, str) and len(text) > 5 for text in texts)
        assert name in response.json["message"]


def test_an_invalid_item_of_a_list_in_the_query_is_named(own):
    assert own.get("/own/things?ids=1&ids=2").json == {"ids": [1, 2]}
    response = own.get("/own/things?ids=1&ids=x")
    assert (response.status_code, list(response.json["errors"])) == (400, ["ids.1"])


def test_a_validation_error_given_as_a_string_stays_one_message(own):
    response = own.post("/own/things", json={"tags": [7]})
    assert response.json["errors"] == {"tags": ["no sevens"], "address.city": ["nor cities"]}
    assert response.json["message"] == "tags: no sevens; address.city: nor cities"


# -- Who may call ----------------------------------------------------------------------


def test_login_required_restricts_a_view_by_credential_and_scope(own, client, alice, token):
    body = {"name": "reader", "scope": "read"}
    reader = client.post("/api/access-tokens", json=body, headers=basic("alice")).json["token"]
    for headers in (bearer(token), basic("alice")):
        assert own.get("/own/plain", headers=headers).json == {"name": "alice"}
    assert own.get("/own/plain", headers=bearer(reader)).status_code == 403
    assert own.get("/own/plain").status_code == 401
    assert own.get("/own/scoped", headers=bearer(reader)).json == {"name": "alice"}
    assert own.get("/own/scoped", headers=basic("alice")).status_code == 401


def test_an_optional_credential_may_be_missing_but_not_wrong(own, token):
    assert own.get("/own/optional").json == {"name": "nobody"}
    assert own.get("/own/optional", headers=bearer(token)).json == {"name": "alice"}
    for headers in (bearer("x" + token), basic("alice", "wrong one"), basic("nobody")):
        assert own.get("/own/optional", headers=headers).status_code == 401


def test_a_route_with_an_empty_list_of_scopes_refuses_access_tokens(own, client, token):
    body = {"name": "reader", "scope": "read"}
    made = client.post("/api/access-tokens", json=body, headers=bearer(token)).json
    assert own.get("/own/no-scopes", headers=bearer(made["token"])).status_code == 403
    assert own.get("/own/no-scopes", headers=bearer(token)).status_code == 200


def test_current_credential_is_none_in_a_public_view(own, token):
    for headers in ({}, bearer(token)):
        assert own.get("/own/who", headers=headers).json == {"name": "nobody"}


def test_each_method_of_a_class_based_view_has_its_own_authentication(own, token):
    assert own.get("/own/both", headers=bearer(token)).json == {"name": "alice"}
    assert own.post("/own/both", headers=bearer(token)).status_code == 401
    assert own.post("/own/both", headers=basic("alice")).status_code == 201
    assert own.get("/own/decorated", headers=bearer(token)).json == {"name": "alice"}
    assert own.get("/own/decorated", headers=basic("alice")).status_code == 401
    for method in ("GET", "POST"):
        assert own.open("/own/forgotten", method=method, headers=bearer(token)).status_code == 403


def test_each_decorator_restricts_a_method_of_a_class_based_view(own, app, alice, token):
    path, headers = f"/own/guarded/{alice}", bearer(token)
    assert own.get(path, headers=headers).json == {"id": alice}
    own.application.config["FRESH_LOGIN_SECONDS"] = 60
    with later(minutes=2):
        assert own.get(path, headers=headers).status_code == 401
        assert own.get(path, headers=basic("alice")).json == {"id": alice}
    assert own.post(path, headers=headers).status_code == 403
    with app.app_context():
        grant_role(db.session.get(User, alice), "editor")
        db.session.commit()
    assert own.post(path, headers=headers).json == {"id": alice}
    assert own.put(path, headers=headers).json == {"id": "own"}
    assert own.put(f"{path}/other", headers=headers).json == {"id": "other"}
    assert own.put(f"/own/guarded/{alice + 1}", headers=headers).status_code == 403


def test_an_access_token_is_never_fresh(own, client, alice):
    body = {"name": "script", "scope": "read"}
    made = client.post("/api/access-tokens", json=body, headers=basic("alice")).json
    answer = own.get(f"/own/guarded/{alice}", headers=bearer(made["token"]))
    assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})


def test_url_for_knows_the_routes_of_tokens_and_sessions(own):
    with own.application.test_request_context():
        assert url_for("tokens.get_token") == "/api/tokens"
        assert url_for("sessions.end_session", id=1) == "/api/sessions/1"


def test_login_required_and_class_based_views_are_documented(own):
    document = own.get("/openapi.json").json
    validate(document)
    paths = document["paths"]
    assert paths["/own/plain"]["get"]["security"] == [{"Password": []}, {"Token": ["account"]}]
    assert {} in paths["/own/optional"]["get"]["security"]
    assert paths["/own/scoped"]["get"]["security"] == [{"Token": ["read"]}]
    both = paths["/own/both"]
    assert both["get"]["security"] == [{"Password": []}, {"Token": ["read"]}]
    assert both["get"]["summary"] == "Read both"
    assert both["post"]["security"] == [{"Password": []}]
    assert "201" in both["post"]["responses"]
    assert both["get"]["operationId"] != both["post"]["operationId"]
    assert paths["/own/decorated"]["get"]["security"] == [{"Token": ["read"]}]


# -- Failures --------------------------------------------------------------------------


def test_changing_a_post_that_was_just_deleted_is_404(own, client, alice):
    body = {"name": "phone", "scope": "read"}
    id = client.post("/api/access-tokens", json=body, headers=basic("alice")).json["id"]
    response = own.put(f"/own/late/{id}")
    assert (response.status_code, response.json["error"]) == (404, "Not Found")


# -- Imports ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_does_not_import_faker(config_class):
    code = "import sys, microblog_api; print('faker' in sys.modules)"
    environment = {"DATABASE_URL": config_class.SQLALCHEMY_DATABASE_URI, "SECRET_KEY": "key"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "False\n"
