"""During an upgrade, servers of the previous release run on the new schema."""

import secrets
import subprocess
import sys

import pytest

from tests.conftest import DATABASES, postgresql_database
from tests.helpers import PASSWORD, ROOT, Server, basic, bearer

# A commit. With each release, name the one before it here.
PREVIOUS_RELEASE = "d97af65"


# Runs its application with whatever server is at hand.
SERVER = """
import sys
sys.path.insert(0, ".")
from microblog_api import app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, app, threaded=True)
print(f"ready at http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.fixture(params=DATABASES)
def database(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/app.db"
    else:
        with postgresql_database() as url:
            yield url


@pytest.fixture
def previous_code(tmp_path):
    archive = ["git", "archive", PREVIOUS_RELEASE]
    done = subprocess.run(archive, cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("the history of this clone does not reach back to the previous release")
    directory = tmp_path / "previous"
    directory.mkdir()
    subprocess.run(["tar", "x"], cwd=directory, input=done.stdout, check=True)
    return directory


@pytest.mark.slow
def test_the_previous_release_runs_on_the_new_schema(database, previous_code):
    environment = {"DATABASE_URL": database, "SECRET_KEY": secrets.token_urlsafe(48)}
    with (
        Server(**environment) as new,  # upgrades the schema
        Server(previous_code, [sys.executable, "-c", SERVER], **environment) as old,
    ):
        for one, other, name in [(old, new, "alice"), (new, old, "bob")]:
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            assert one.request("POST", "/api/users", json_body=body).status == 201
            token = one.request("POST", "/api/tokens", headers=basic(name)).json["token"]
            again = other.request("POST", "/api/tokens", headers=basic(name)).json["token"]
            assert token == again
            wish = {"name": "script", "scope": "read write"}
            made = one.request("POST", "/api/access-tokens", headers=bearer(token), json_body=wish)
            for credential in [bearer(token), bearer(made.json["token"])]:
                seen = other.request("GET", "/api/users/me", headers=credential)
                assert (seen.status, seen.json["username"]) == (200, name)
            assert other.request("DELETE", "/api/tokens", headers=bearer(token)).status == 204
            assert one.request("GET", "/api/users/me", headers=bearer(token)).status == 401
            path = f"/api/users/{seen.json['id']}"
            assert other.request("DELETE", path, headers=basic(name)).status == 204
            assert one.request("POST", "/api/tokens", headers=basic(name)).status == 401
