"""The OpenAPI document, and whether the API keeps to it."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate

from app import create_app
from tests.helpers import ROOT, Server

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
        (method, re.sub("<int:(.*?)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    page = {("GET", "/"), ("GET", "/docs"), ("GET", "/docs/<name>"), ("GET", "/openapi.json")}
    assert operations(document).keys() == routes - page


@pytest.fixture
def patient_server(config_class):
    """One that does not mind how many passwords are wrong, and tokens are made."""
    with Server(
        DATABASE_URL=config_class.SQLALCHEMY_DATABASE_URI,
        SECRET_KEY=config_class.SECRET_KEY,
        ARGON2_MEMORY_KIB="8",
        ARGON2_TIME_COST="1",
        LOGIN_LIMIT_PER_SOURCE="1000000 per hour",
        LOGIN_LIMIT_PER_ACCOUNT="1000000 per hour",
        ACCESS_TOKENS_PER_USER="1000",
    ) as server:
        yield server


def test_schemathesis_finds_nothing_that_the_document_does_not_say(
    app, patient_server, document, capsys, tmp_path
):
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", ROOT / "tests" / "schemathesis.toml"),
            *("run", f"{patient_server.url}/openapi.json", "--checks", "all", "--no-color"),
            *("--max-examples", EXAMPLES, "--seed", SEED, "--continue-on-failure"),
        ],
        cwd=tmp_path,
        env={**os.environ, "API_URL": patient_server.url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    with capsys.disabled():
        print("", run.stdout[run.stdout.index("Test cases:") :], sep="\n")
    # Nor did it break off at the door: each operation has done what it is for.
    log = "".join(patient_server.output)
    for method, path in operations(document):
        served = rf'"{method} {re.escape(path).replace(re.escape("{id}"), "[0-9]+")}" 20'
        assert re.search(served, log), f"{method} {path} has never succeeded"
