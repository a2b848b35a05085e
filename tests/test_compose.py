"""deployment/compose.yaml: valid, closed, and in step with the settings and the image."""

import re
import shutil
import subprocess

import pytest
import sqlalchemy as sa
import yaml

import server
from config import IN_FILES, SETTINGS, database_uri
from tests.helpers import PASSWORD, ROOT, basic
from tests.services import program
from tests.sessions import blocks

FILE = ROOT / "deployment" / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "microblog-api"}
PAGE = (ROOT / "docs" / "deployment.md").read_text()


@pytest.fixture
def merged(tmp_path):
    """A function: what docker-compose makes of the file and others, which must be valid."""

    def merged(*files):
        # Versions before 2 know no `name`.
        text = re.sub("^name: .*\n", "", FILE.read_text(), flags=re.MULTILINE)
        (tmp_path / "compose.yaml").write_text(text)
        names = [f"--file={name}" for name in (tmp_path / "compose.yaml", *files)]
        process = subprocess.run(
            [program("docker-compose"), *names, f"--project-directory={FILE.parent}", "config"],
            cwd=FILE.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return yaml.safe_load(process.stdout)

    return merged


@pytest.mark.slow
def test_it_is_valid(merged):
    assert merged()["services"].keys() == SERVICES.keys()


@pytest.mark.slow
def test_the_nodes_send_mail_with_a_second_file(merged):
    alone, with_mail = merged(), merged("compose.mail.yaml")
    known = SETTINGS | {f"{name}_FILE" for name in IN_FILES}
    for node in ("node1", "node2"):
        before, after = alone["services"][node], with_mail["services"][node]
        assert after["networks"] == before["networks"] | {"outside": {}}
        added = after["environment"].keys() - before["environment"].keys()
        assert {"SITE_URL", "MAIL_SERVER", "MAIL_PASSWORD_FILE"} <= added <= known
        sources = [secret["source"] for secret in after["secrets"]]
        assert sources == ["database_url", "mail_password", "secret_key"]
        assert after["environment"]["MAIL_PASSWORD_FILE"] == "/run/secrets/mail_password"
    assert with_mail["secrets"]["mail_password"]["file"].endswith("/secrets/mail_password")
    schema = with_mail["services"]["schema"]
    assert schema["environment"] == alone["services"]["schema"]["environment"]
    assert list(schema["networks"]) == ["databases"]


def test_only_the_proxy_can_be_reached_from_outside():
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    reached = SERVICES["nginx"]["networks"]
    for name, service in SERVICES.items():
        shared = set(service["networks"]) & set(reached)
        assert shared <= ({"nodes"} if name.startswith("node") else set(reached)), name
    assert all(COMPOSE["networks"][name]["internal"] for name in ("nodes", "databases"))


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_locked_up(name):
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if service["image"] != "microblog-api" and "cap_add" not in service:
        assert service["user"] != "root"


def test_every_setting_and_file_that_it_names_exists():
    known = SETTINGS | {f"{name}_FILE" for name in IN_FILES}
    for service in OURS.values():
        assert service["environment"].keys() <= known
        mounted = {f"/run/secrets/{name}" for name in service["secrets"]}
        files = {value for value in service["environment"].values() if value.startswith("/run/")}
        assert files == mounted
    for source in sources():
        assert source.startswith("./secrets/") or (FILE.parent / source).exists(), source
    assert "secrets" in (FILE.parent / ".gitignore").read_text().split()


def sources():
    """Return the paths of the files that it mounts."""
    volumes = [volume.split(":")[0] for volume in SERVICES["nginx"]["volumes"]]
    return volumes + [secret["file"] for secret in COMPOSE["secrets"].values()]


def test_the_nodes_have_the_time_that_the_server_takes_to_stop():
    for node in ("node1", "node2"):
        grace = int(SERVICES[node]["stop_grace_period"].removesuffix("s"))
        assert grace > server.GRACEFUL_SECONDS


def test_the_documented_commands_make_secrets_that_fit_together(tmp_path):
    (tmp_path / "deployment").mkdir()
    (session,) = [block for block in blocks(PAGE, "sh") if "postgres_password" in block]
    script = "".join(line for line in session.splitlines(True) if "docker" not in line)
    certificate = script.replace("/etc/letsencrypt/live/api.example.com", str(tmp_path))
    for name in ("fullchain.pem", "privkey.pem"):
        (tmp_path / name).touch()
    subprocess.run(["bash", "-e"], input=certificate, cwd=tmp_path, text=True, check=True)
    made = tmp_path / "deployment" / "secrets"
    assert made.stat().st_mode & 0o777 == 0o700
    url = sa.make_url(database_uri((made / "database_url").read_text().strip()))
    assert url.password == (made / "postgres_password").read_text().strip()
    assert (url.username, url.host, url.database) == ("microblog", "postgres", "microblog")
    wanted = {source for source in sources() if source.startswith("./secrets/")}
    assert wanted == {f"./secrets/{path.name}" for path in made.iterdir()}


def test_the_schema_and_a_node_run_as_the_file_says(podman, tmp_path):
    (tmp_path / "secret_key").write_text("of the tests, long enough for no warning\n")
    (tmp_path / "database_url").write_text("sqlite:////srv/microblog/instance/compose.db\n")
    for path in (tmp_path, *tmp_path.iterdir()):
        shutil.chown(path, 10001)
    node = SERVICES["node1"]
    options = [
        "--read-only",
        "--read-only-tmpfs=false",
        *(f"--tmpfs={path}" for path in node["tmpfs"]),
        *(f"--cap-drop={name}" for name in node["cap_drop"]),
        *(f"--security-opt={option.split(':')[0]}" for option in node["security_opt"]),
        f"--volume={tmp_path}:/run/secrets:ro",
        "--volume=compose:/srv/microblog/instance",
    ]
    settings = node["environment"] | {"REDIS_URL": "", "WEB_CONCURRENCY": "1"}
    flags = [f"--env={name}={value}" for name, value in settings.items()]
    podman(
        *("run", "--rm", "--no-healthcheck", *options, *flags, "localhost/microblog-api"),
        *SERVICES["schema"]["command"],
    )
    with podman.server(*options, command=node["command"], **settings) as running:
        body = {"username": "alice", "email": "alice@example.com", "password": PASSWORD}
        host = {"Host": "api.example.com"}
        assert running.request("POST", "/api/users", json_body=body, headers=host).status == 201
        answer = running.request("GET", "/api/users/me", headers=host | basic("alice"))
        assert answer.status == 200
        assert running.stop() == 0
