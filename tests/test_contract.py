"""The OpenAPI document, and whether the API keeps to it."""

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
from app.auth import any_auth, basic_auth, public, token_auth
from app.openapi import path_of
from app.schemas import NewPost, PostOut, UserOut
from tests.helpers import ROOT

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


def test_the_version_is_that_of_the_project(document):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert document["info"]["version"] == project["version"]


def test_the_host_of_a_request_never_gets_into_the_document(config_class):
    fresh = create_app(config_class).test_client()
    text = fresh.get("/openapi.json", headers={"Host": "evil.example"}).text
    assert "evil" not in text
    assert "servers" not in fresh.get("/openapi.json").json


def test_a_copy_that_is_still_right_is_not_sent_again(client):
    tag = client.get("/openapi.json").headers["ETag"]
    again = client.get("/openapi.json", headers={"If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")


def test_it_says_of_each_route_what_opens_it(document):
    said = {at: operation["security"] for at, operation in operations(document).items()}
    assert said["POST", "/api/users"] == []
    assert said["POST", "/api/tokens"] == [{"Password": []}]
    assert said["GET", "/api/users"] == [{"Password": []}, {"Token": ["read"]}]
    assert said["PUT", "/api/users/{id}/password"] == [{"Password": []}, {"Token": ["account"]}]
    assert said["DELETE", "/api/tokens"] == [{"Password": []}, {"Token": []}]
    schemes = document["components"]["securitySchemes"]
    assert {name: scheme["scheme"] for name, scheme in schemes.items()} == {
        "Token": "bearer",
        "Password": "basic",
    }


def test_it_says_how_long_a_password_must_be_here(client_of):
    schemas = client_of(PASSWORD_MIN_LENGTH=15).get("/openapi.json").json["components"]["schemas"]
    assert schemas["NewUser"]["properties"]["password"]["minLength"] == 15
    assert schemas["ChangedPassword"]["properties"]["new_password"]["minLength"] == 15
    assert "minLength" not in schemas["ChangedPassword"]["properties"]["current_password"]


def test_routes_of_ones_own_are_described_as_they_are_declared(config_class):
    app = create_app(config_class)
    bp = APIBlueprint("notes", __name__)

    @bp.route("/notes", methods=["GET", "POST"])
    @bp.auth_required(token_auth, roles=["read", "write"])
    @bp.output(UserOut(many=True), 202)
    def get_users():
        """As another view is called.

        With more to say.
        """

    @bp.patch("/notes/<uuid:id>/<path:name>")
    @bp.auth_required(basic_auth)
    @bp.doc(responses={"409": "It is locked."}, extensions={"x-slow": True}, tags=["Others"])
    @bp.input(NewPost, example={"body": "Hi"})
    @bp.output(PostOut)
    def patch_note(id, name, json_data):
        pass

    @bp.get("/notes/<float:size>")
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
    get, post = own["GET", "/own/notes"], own["POST", "/own/notes"]
    assert len({get["operationId"], post["operationId"], "get_users"}) == 3
    assert get["security"] == [{"Token": ["read"]}, {"Token": ["write"]}]
    assert get["summary"] == "As another view is called"
    assert get["description"].startswith("With more to say.\n\nTakes a token with the scope `read`")
    listed = get["responses"]["202"]["content"]["application/json"]["schema"]
    assert listed == {"type": "array", "items": {"$ref": "#/components/schemas/UserOut"}}
    patch = own["PATCH", "/own/notes/{id}/{name}"]
    assert [one["schema"].get("format") for one in patch["parameters"]] == ["uuid", None]
    assert patch["requestBody"]["content"]["application/json"]["example"] == {"body": "Hi"}
    assert patch["responses"]["409"]["description"] == "It is locked."
    assert (patch["x-slow"], patch["tags"]) == (True, ["Others"])
    assert "403" not in patch["responses"]
    weighed = own["GET", "/own/notes/{size}"]
    assert (weighed["summary"], weighed["tags"], weighed["security"]) == ("Weigh", ["Notes"], [])
    assert weighed["responses"]["404"] == {"$ref": "#/components/responses/NotFound"}
    assert weighed["responses"]["410"]["description"] == "Gone"
    assert own["GET", "/without-a-blueprint"]["tags"] == ["Others"]
    drawn = own["GET", "/own/picture"]
    assert drawn["operationId"] == "draw"
    assert drawn["security"] == [{"Password": []}, {"Token": ["read", "write"]}]
    assert drawn["responses"]["200"]["content"]["image/png"]["schema"]["format"] == "binary"
    assert ("GET", "/own/hidden") not in own
    assert [tag["name"] for tag in said["tags"]][-2:] == ["Notes", "Others"]


def test_every_link_leads_to_an_operation(document):
    names = {operation["operationId"] for operation in operations(document).values()}
    links = [
        link["operationId"]
        for operation in operations(document).values()
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert {"get_user", "revoke_access_token"} <= set(links) <= names


def test_every_example_is_what_its_schema_allows(document):
    """Also of the requests: who executes them as they stand on the page gets no 400."""
    for schema in document["components"]["schemas"].values():
        for field in schema["properties"].values():
            for example in field.get("examples", []):
                bundle = {"components": document["components"], **field}
                Draft202012Validator(bundle, format_checker=FormatChecker()).validate(example)


def test_no_route_of_the_api_is_missing_from_the_document(app, document):
    routes = {
        (method, path_of(rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    page = {("GET", path) for path in ("/", "/docs", "/docs/{name}", "/openapi.json")}
    assert operations(document).keys() == routes - page


def test_schemathesis_finds_nothing_that_the_document_does_not_say(
    server_with, document, capsys, tmp_path
):
    server = server_with(
        LOGIN_LIMIT_PER_SOURCE="1000000 per hour",
        LOGIN_LIMIT_PER_ACCOUNT="1000000 per hour",
        ACCESS_TOKENS_PER_USER="1000",
    )
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", ROOT / "tests" / "schemathesis.toml"),
            *("run", f"{server.url}/openapi.json", "--checks", "all", "--no-color"),
            *("--max-examples", EXAMPLES, "--seed", SEED, "--continue-on-failure"),
        ],
        cwd=tmp_path,
        env={**os.environ, "API_URL": server.url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    with capsys.disabled():
        print("", run.stdout[run.stdout.index("Test cases:") :], sep="\n")
    # Nor did it break off at the door: each operation has done what it is for.
    log = "".join(server.output)
    for method, path in operations(document):
        served = rf'"{method} {re.sub("{.*?}", "[^/]+", path)}" 20'
        assert re.search(served, log), f"{method} {path} has never succeeded"
