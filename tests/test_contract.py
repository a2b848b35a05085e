"""The OpenAPI document, and whether the API conforms to it."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
from apiflask import APIBlueprint
from apiflask.schemas import FileSchema
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate

from app import create_app
from app.api.openapi import path_of
from app.api.schemas import ChangedUser, UserOut
from app.auth import any_auth, basic_auth, public, token_auth
from tests.helpers import PASSWORD, ROOT

# For a long run: FUZZ_EXAMPLES=1000 FUZZ_SEED=$RANDOM ./test.sh -k schemathesis
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "10")  # of each operation and phase
SEED = os.environ.get("FUZZ_SEED", "1")


@pytest.fixture
def document(client):
    return client.get("/openapi.json").json


def operations(document):
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_is_valid_openapi(document):
    assert document["openapi"].startswith("3.1.")
    validate(document)


# Operation, body ("?": optional), what it answers, and errors beside 400, 500 and 503.
TOKEN_ROUTES = """
POST /api/tokens                       | NewLogIn?         | 200 TokenOut              | 401 403 413 415 429
PUT /api/tokens                        |                   | 200 TokenOut              | 401 403 429
GET /api/tokens                        |                   | 200 TokenInfo             | 401 403 429
DELETE /api/tokens                     |                   | 204                       | 401 403 429
POST /api/tokens/introspect            | GivenToken        | 200 Introspection         | 401 403 413 429
POST /api/tokens/revoke                | GivenToken        | 200                       | 413
POST /api/tokens/reset                 | ForgottenPassword | 202                       | 413 415 429
PUT /api/tokens/reset                  | ResetPassword     | 204                       | 413 415
GET /api/sessions                      |                   | 200 SessionCollection     | 401 403 429
DELETE /api/sessions                   |                   | 204                       | 401 403 429
DELETE /api/sessions/{id}              |                   | 204                       | 401 403 404 429
POST /api/access-tokens                | NewAccessToken    | 201 NewAccessTokenOut     | 401 403 413 415 429
GET /api/access-tokens                 |                   | 200 AccessTokenCollection | 401 403 429
GET /api/access-tokens/{id}            |                   | 200 AccessTokenOut        | 401 403 404 429
DELETE /api/access-tokens/{id}         |                   | 204                       | 401 403 404 429
POST /api/access-tokens/{id}/rotation  | Rotation          | 200 NewAccessTokenOut     | 401 403 404 409 413 415 429
"""  # noqa: E501  a table


def schema_in(content):
    """Return the name of the schema, or nothing where it has none."""
    return "".join(c["schema"].get("$ref", "").rpartition("/")[2] for c in content.values())


def test_the_document_says_what_the_routes_of_tokens_take_and_answer(document):
    lines = []
    for (method, path), operation in operations(document).items():
        if path.startswith(("/api/tokens", "/api/sessions", "/api/access-tokens")):
            body = operation.get("requestBody", {"content": {}, "required": True})
            taken = schema_in(body["content"]) + ("" if body["required"] else "?")
            (status, *_), *_ = sorted(operation["responses"].items())
            answer = schema_in(operation["responses"][status].get("content", {}))
            errors = sorted(operation["responses"].keys() - {status, "400", "500", "503"})
            lines.append(
                [f"{method} {path}", taken, f"{status} {answer}".strip(), " ".join(errors)]
            )
    expected = [line.split("|") for line in TOKEN_ROUTES.strip().splitlines()]
    assert sorted(lines) == sorted([column.strip() for column in line] for line in expected)


def test_the_document_says_which_headers_and_links_tell_of_tokens(document):
    responses = document["paths"]["/api/access-tokens"]["post"]["responses"]
    assert list(responses["201"]["headers"]) == ["Location"]
    names = ["get_access_token", "rotate_access_token", "revoke_access_token"]
    assert list(responses["201"]["links"]) == names
    told = document["paths"]["/api/tokens"]["get"]["responses"]["200"]["headers"]
    assert list(told) == ["X-User-Id", "X-Username", "X-Scope", "X-Roles"]


def test_the_version_is_that_of_the_project(document):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert document["info"]["version"] == project["version"]


def test_the_name_of_the_service_is_a_setting(client_of):
    client = client_of(APP_NAME="Todo & more")
    assert client.get("/openapi.json").json["info"]["title"] == "Todo & more"
    assert "<title>Todo &amp; more</title>" in client.get("/docs").text
    assert client.get("/api/users").headers["WWW-Authenticate"] == 'Bearer realm="Todo & more"'
    body = {"username": "carol", "email": "carol@example.com", "password": "todo & more 1"}
    response = client.post("/api/users", json=body)
    assert (response.status_code, list(response.json["errors"])) == (400, ["password"])


def test_the_host_of_a_request_never_gets_into_the_document(config_class):
    fresh = create_app(config_class).test_client()
    text = fresh.get("/openapi.json", headers={"Host": "evil.example"}).text
    assert "evil" not in text
    assert "servers" not in fresh.get("/openapi.json").json


def test_the_document_is_not_sent_again_while_its_etag_matches(client):
    tag = client.get("/openapi.json").headers["ETag"]
    again = client.get("/openapi.json", headers={"If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")


def test_the_document_names_the_credentials_and_scopes_of_each_route(document):
    said = {at: operation["security"] for at, operation in operations(document).items()}
    assert said["POST", "/api/users"] == []
    assert said["POST", "/api/tokens"] == [{}, {"Password": []}]  # or in the body
    assert said["GET", "/api/users"] == [{"Password": []}, {"Token": ["read"]}]
    assert said["PUT", "/api/users/{id}/password"] == [{"Password": []}, {"Token": ["account"]}]
    assert said["DELETE", "/api/tokens"] == [{"Password": []}, {"Token": []}]
    schemes = document["components"]["securitySchemes"]
    assert {name: scheme["scheme"] for name, scheme in schemes.items()} == {
        "Token": "bearer",
        "Password": "basic",
    }


def test_the_document_contains_the_configured_password_length(client_of):
    schemas = client_of(PASSWORD_MIN_LENGTH=15).get("/openapi.json").json["components"]["schemas"]
    assert schemas["NewUser"]["properties"]["password"]["minLength"] == 15
    assert schemas["ChangedPassword"]["properties"]["new_password"]["minLength"] == 15
    assert "minLength" not in schemas["ChangedPassword"]["properties"]["current_password"]


def test_custom_routes_are_documented_from_their_decorators(config_class):
    app = create_app(config_class)
    bp = APIBlueprint("things", __name__)

    @bp.route("/things", methods=["GET", "POST"])
    @bp.auth_required(token_auth, roles=["read", "write"])
    @bp.output(UserOut(many=True), 202)
    def get_users():
        """As another view is called.

        With more to say.
        """

    @bp.patch("/things/<uuid:id>/<path:name>")
    @bp.auth_required(basic_auth)
    @bp.doc(responses={"409": "It is locked."}, extensions={"x-slow": True}, tags=["Others"])
    @bp.input(ChangedUser, example={"about_me": "Hi"})
    @bp.output(UserOut)
    def patch_note(id, name, json_data):
        pass

    @bp.get("/things/<float:size>")
    @public
    @bp.doc(responses=[404, 410], summary="Weigh")
    @bp.output({}, 204)
    def weigh(size):
        pass

    @bp.get("/picture")
    @bp.auth_required(any_auth, roles=[["read", "write"]])
    @bp.doc(operation_id="draw")
    @bp.output(FileSchema(), content_type="image/png")
    def picture():
        pass

    @bp.get("/hidden")
    @public
    @bp.doc(hide=True)
    @bp.output({}, 204)
    def hidden():
        pass

    app.register_blueprint(bp, url_prefix="/own")

    @app.get("/without-a-blueprint")
    @public
    @app.output({}, 204)
    def bare():
        pass

    said = app.test_client().get("/openapi.json").json
    validate(said)
    own = {at: one for at, one in operations(said).items() if not at[1].startswith("/api")}
    get, post = own["GET", "/own/things"], own["POST", "/own/things"]
    assert len({get["operationId"], post["operationId"], "get_users"}) == 3
    assert get["security"] == [{"Token": ["read"]}, {"Token": ["write"]}]
    assert get["summary"] == "As another view is called"
    assert get["description"].startswith("With more to say.\n\nTakes a token with the scope `read`")
    listed = get["responses"]["202"]["content"]["application/json"]["schema"]
    assert listed == {"type": "array", "items": {"$ref": "#/components/schemas/UserOut"}}
    patch = own["PATCH", "/own/things/{id}/{name}"]
    assert [one["schema"].get("format") for one in patch["parameters"]] == ["uuid", None]
    assert patch["requestBody"]["content"]["application/json"]["example"] == {"about_me": "Hi"}
    assert patch["responses"]["409"]["description"] == "It is locked."
    assert (patch["x-slow"], patch["tags"]) == (True, ["Others"])
    assert "403" not in patch["responses"]
    weighed = own["GET", "/own/things/{size}"]
    assert (weighed["summary"], weighed["tags"], weighed["security"]) == ("Weigh", ["Things"], [])
    assert weighed["responses"]["404"] == {"$ref": "#/components/responses/NotFound"}
    assert weighed["responses"]["410"]["description"] == "Gone"
    assert own["GET", "/without-a-blueprint"]["tags"] == ["Others"]
    drawn = own["GET", "/own/picture"]
    assert drawn["operationId"] == "draw"
    assert drawn["security"] == [{"Password": []}, {"Token": ["read", "write"]}]
    assert drawn["responses"]["200"]["content"]["image/png"]["schema"]["format"] == "binary"
    assert ("GET", "/own/hidden") not in own
    assert [tag["name"] for tag in said["tags"]][-2:] == ["Things", "Others"]


def test_every_link_leads_to_an_operation(document):
    names = {operation["operationId"] for operation in operations(document).values()}
    links = [
        link["operationId"]
        for operation in operations(document).values()
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert {"get_user", "revoke_access_token"} <= set(links) <= names


def test_every_example_is_valid_against_its_schema(document):
    """Also examples of requests: executed unchanged on the page, they must not be 400."""
    for schema in document["components"]["schemas"].values():
        for field in schema["properties"].values():
            for example in field.get("examples", []):
                bundle = {"components": document["components"], **field}
                Draft202012Validator(bundle, format_checker=FormatChecker()).validate(example)


def test_the_document_contains_every_route_of_the_api(app, document):
    routes = {
        (method, path_of(rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    page = ["/", "/docs", "/docs/{name}", "/openapi.json"]
    of_mails = ["/reset", "/verify", "/pages/{name}"]
    of_operators = ["/livez", "/readyz"]
    others = {("GET", path) for path in page + of_mails + of_operators}
    assert operations(document).keys() == routes - others


def test_schemathesis_finds_no_deviation_from_the_document(
    app, register, server_with, document, capsys, tmp_path
):
    register("root")
    granted = app.test_cli_runner().invoke(args=["users", "grant", "root", "admin"])
    assert granted.exit_code == 0
    server = server_with(
        LOGIN_LIMIT_PER_SOURCE="1000000 per hour",
        LOGIN_LIMIT_PER_ACCOUNT="1000000 per hour",
        MAIL_LIMIT_PER_SOURCE="1000000 per hour",
        MAIL_LIMIT_PER_RECIPIENT="1000000 per hour",
        ACCESS_TOKENS_PER_USER="1000",
    )
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", ROOT / "tests" / "schemathesis.toml"),
            *("run", f"{server.url}/openapi.json", "--checks", "all", "--no-color"),
            # A user who leaves takes along what they have made: what a request has just made may
            # be gone, by nobody's fault. (`enabled = false` does not hold against "all".)
            *("--exclude-checks", "ensure_resource_availability"),
            *("--max-examples", EXAMPLES, "--seed", SEED, "--continue-on-failure"),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "API_URL": server.url,
            "DATABASE_URL": server.environment["DATABASE_URL"],
            "SECRET_KEY": server.environment["SECRET_KEY"],
            "ADMIN_PASSWORD": PASSWORD,
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    with capsys.disabled():
        print("", run.stdout[run.stdout.index("Test cases:") :], sep="\n")
    # Each operation has also succeeded at least once.
    succeeded = {(method, path) for method, path, status in server.requests() if status < 300}
    for method, path in operations(document):
        pattern = re.sub("{.*?}", "[^/]+", path)
        served = any(method == m and re.fullmatch(pattern, p) for m, p in succeeded)
        assert served, f"{method} {path} has never succeeded"
