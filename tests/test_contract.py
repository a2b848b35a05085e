"""The OpenAPI document, and whether the API keeps to it."""

import os
import re
import subprocess
import sys

import pytest
from openapi_spec_validator import validate

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
