"""Clients generated from the OpenAPI document work, as `docs/clients` says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.slow

GENERATED = ("microblog_api_client", "node_modules", "build", "schema.d.ts")
STEPS = ["registered", "logged in", "the token is of", "changed", "logged out, and the token is"]


def copy(language, directory):
    """Copy the example in that language, without generated files; return its folder."""
    ignore = shutil.ignore_patterns(*GENERATED)
    return shutil.copytree(
        ROOT / "docs" / "clients" / language, directory / language, ignore=ignore
    )


def attempt(directory, *command):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def run(directory, *command):
    """Run the command, which must succeed; return its output."""
    done = attempt(directory, *command)
    assert done.returncode == 0, done.stdout
    return done.stdout


def assert_all_steps_in(output):
    lines = output.splitlines()
    assert len(lines) == len(STEPS), output
    for line, step in zip(lines, STEPS, strict=True):
        assert line.startswith(step)


@pytest.fixture(scope="session")
def typescript(tmp_path_factory):
    """A copy of the TypeScript example, with its packages installed."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    directory = copy("typescript", tmp_path_factory.mktemp("clients"))
    once = ("--fetch-retries=0", "--fetch-timeout=20000")
    installed = attempt(directory, "npm", "ci", "--prefer-offline", "--ignore-scripts", *once)
    if installed.returncode and attempt(directory, "npm", "ping", *once).returncode:
        pytest.skip("npm's packages are not in its cache, and its registry cannot be reached")
    assert installed.returncode == 0, installed.stdout
    return directory


def test_a_python_client_generated_from_the_document_logs_in_calls_and_logs_out(
    new_server, tmp_path
):
    directory = copy("python", tmp_path)
    said = run(directory, "./generate.sh", new_server.url)
    assert said == "Generating microblog_api_client\n", "the generator warns"
    output = run(directory, sys.executable, "-W", "error", "example.py", new_server.url)
    assert_all_steps_in(output)


def test_a_typescript_client_generated_from_the_document_logs_in_calls_and_logs_out(
    new_server, typescript
):
    npm = ("npm", "run", "--silent")
    said = run(typescript, *npm, "generate", "--", f"{new_server.url}/openapi.json")
    assert "⚠" not in said, "the generator warns"
    run(typescript, *npm, "check")
    assert_all_steps_in(run(typescript, *npm, "start", "--", new_server.url))
