"""The image of the Dockerfile, built and run."""

import json
import shutil

import pytest

from tests.containers import IMAGE
from tests.helpers import PASSWORD, basic, bearer, make_certificate

# Of deployment/compose.yaml: nothing but the volume and /tmp can be written.
LOCKED = (
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp"),
    *("--cap-drop=all", "--security-opt=no-new-privileges"),
)
ALICE = {"username": "alice", "email": "alice@example.com", "password": PASSWORD}


def test_the_data_outlive_a_container_whose_file_system_is_read_only(podman):
    options = (*LOCKED, "--volume=data:/srv/microblog/instance")
    with podman.server("--name=first", *options) as server:
        assert server.request("POST", "/api/users", json_body=ALICE).status == 201
        token = server.request("POST", "/api/tokens", headers=basic("alice")).json["token"]
        script = "id -u; id -g; touch /srv/microblog/app/x || echo refused; touch /tmp/x"
        said = podman("exec", "first", "sh", "-c", script)
        assert said.stdout.split() == ["10001", "10001", "refused"]
        assert server.stop() == 0
    # The log in, and two requests; all else is about the mail.
    events = [line["event"] for line in server.log() if "event" in line]
    assert sorted(events) == ["log_in", "request", "request"]
    assert all("MAIL_SERVER is not set" in line for line in server.output if '"event"' not in line)
    with podman.server(*options) as server:
        assert server.request("GET", "/api/users/me", headers=bearer(token)).status == 200


def test_a_request_in_flight_is_answered_when_the_container_is_stopped(podman):
    # A hash takes most of a second.
    settings = {"ARGON2_MEMORY_KIB": "262144", "ARGON2_TIME_COST": "4"}
    with podman.server("--name=slow", *LOCKED, **settings) as server:
        with server.connect(timeout=30) as connection:
            body = json.dumps(ALICE)
            head = "POST /api/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            podman("stop", "--time=40", "slow")
            assert connection.makefile("rb").readline() == b"HTTP/1.1 201 Created\r\n"
        assert server.process.wait(timeout=5) == 0


@pytest.mark.parametrize("tls", [False, True])
def test_the_health_check_of_the_image_sees_whether_the_server_answers(podman, tmp_path, tls):
    image = json.loads(podman("image", "inspect", IMAGE).stdout)[0]
    assert image["User"] == "10001:10001"
    kind, *command = image["Healthcheck"]["Test"]
    assert kind == "CMD"
    settings = {"PORT": "5871", "TRUSTED_HOSTS": "api.example.com"}
    if tls:
        make_certificate(tmp_path)
        tmp_path.chmod(0o755)
        settings |= {"TLS_CERTIFICATE": "/tls/certificate.pem", "TLS_KEY": "/tls/key.pem"}
    options = (*LOCKED, f"--volume={tmp_path}:/tls:ro")
    with podman.server("--name=checked", *options, **settings) as server:
        assert server.url.startswith("https:" if tls else "http:")
        assert podman("exec", "checked", *command, check=False).returncode == 0
        podman("exec", "checked", "sh", "-c", "kill -STOP $(cat /proc/1/task/1/children)")
        assert podman("exec", "checked", *command, check=False).returncode == 1
        podman("exec", "checked", "sh", "-c", "kill -CONT $(cat /proc/1/task/1/children)")
        assert server.stop() == 0


def test_secrets_are_read_from_files_that_the_user_of_the_image_can_read(podman, tmp_path):
    (tmp_path / "key").write_text("the key that is in a file\n")
    (tmp_path / "database").write_text("sqlite:////tmp/other.db\n")
    for path in (tmp_path, *tmp_path.iterdir()):
        shutil.chown(path, 10001)
    files = {"SECRET_KEY_FILE": "/run/secrets/key", "DATABASE_URL_FILE": "/run/secrets/database"}
    options = ("--name=secrets", *LOCKED, f"--volume={tmp_path}:/run/secrets:ro")
    with podman.server(*options, DATABASE_URL="", **files) as server:
        assert server.request("POST", "/api/users", json_body=ALICE).status == 201
        # Neither a database nor a key was made; a mail may have been.
        assert podman("exec", "secrets", "ls", "instance", "/tmp").stdout.count("other.db") == 3
        assert podman("exec", "secrets", "ls", "instance").stdout in {"", "mail\n"}
        assert "in a file" not in podman("exec", "secrets", "cat", "/proc/1/environ").stdout
