"""The units in deployment/systemd, on a machine of their own that has booted systemd."""

import re
import subprocess

import pytest

from tests.containers import Machine
from tests.helpers import ROOT, make_certificate, until
from tests.services import program
from tests.sessions import blocks

pytestmark = pytest.mark.alone  # boots machines

UNITS = ROOT / "deployment" / "systemd"
SERVICE = "microblog-api.service"
PAGE = (ROOT / "docs" / "deployment.md").read_text()
MAIL = (ROOT / "docs" / "mail.md").read_text()


@pytest.mark.slow
def test_the_service_may_do_little():
    analyze = [program("systemd-analyze"), "security", "--offline=true", "--no-pager"]
    # Its exposure, from 0 to 100; a service without restrictions has 96.
    process = subprocess.run(
        [*analyze, "--threshold=20", UNITS / SERVICE], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout


@pytest.fixture(scope="module")
def machine(podman):
    """A machine on which the service runs, installed as docs/deployment.md says."""
    machine = Machine(podman)
    try:
        # What the page does with Git and pip, the image has done.
        machine("ln", "-s", "/srv/microblog", "/opt/microblog-api")
        machine("ln", "-s", "/opt/venv", "/srv/microblog/.venv")
        (install,) = [block for block in blocks(PAGE, "sh") if "systemctl enable" in block]
        done = machine("sh", "-ec", f"cd /opt/microblog-api\n{install}", check=False)
        assert done.returncode == 0, machine("journalctl", f"--unit={SERVICE}").stdout
        yield machine
    finally:
        machine.close()


def write(machine, path, text):
    machine("sh", "-ec", 'umask 77; mkdir -p "${0%/*}"; printf %s "$1" > "$0"', path, text)


def status(machine, port=5000, scheme="HTTP"):
    """Return the status that a request gets which needs a token."""
    code = f"""if True:
        import http.client, ssl
        ssl._create_default_https_context = ssl._create_unverified_context
        connection = http.client.{scheme}Connection("127.0.0.1", {port}, timeout=60)
        connection.request("GET", "/api/users", headers={{"Host": "api.example.com"}})
        print(connection.getresponse().status)
    """
    return int(machine("python3", "-c", code).stdout)


def show(machine, *names):
    """Return properties of the service."""
    said = machine("systemctl", "show", f"--property={','.join(names)}", SERVICE).stdout
    return dict(line.split("=", 1) for line in said.splitlines())


def test_the_units_are_valid(machine):
    paths = [f"/etc/systemd/system/{unit.name}" for unit in UNITS.iterdir()]
    assert machine("systemd-analyze", "verify", *paths).stderr == ""


def test_the_service_serves_in_its_sandbox(machine):
    assert status(machine) == 401
    files = machine("ls", "-l", "/var/lib/microblog-api").stdout
    assert re.search(r"^-rw------- 1 microblog-api .* app\.db$", files, re.MULTILINE)
    assert machine("ls", "-A", "/srv/microblog/instance").stdout == ""  # no key was made
    may = machine("cat", f"/proc/{show(machine, 'MainPID')['MainPID']}/status").stdout
    assert re.search(r"^Seccomp:\t2$", may, re.MULTILINE)
    assert re.search(r"^CapBnd:\t0+$", may, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", may, re.MULTILINE)


def test_a_command_of_the_operator_has_the_settings_of_the_service(machine):
    (command,) = [block for block in blocks(PAGE, "sh") if "flask -e" in block]
    command = command.replace("sudo ", "env ")
    create = command.strip().replace("users list", "users create alice alice@example.com")
    machine("sh", "-ec", f"{create} <<END\ncorrect horse battery\nEND")
    assert "alice@example.com" in machine("sh", "-ec", command).stdout
    assert status(machine) == 401  # root has left no file that the service cannot open


def test_a_restart_refuses_no_connection(machine):
    before = show(machine, "MainPID")["MainPID"]
    machine("systemctl", "restart", "--no-block", SERVICE)

    def is_restarted():
        assert status(machine) == 401
        now = show(machine, "MainPID", "ActiveState")
        return now["MainPID"] not in {before, "0"} and now["ActiveState"] == "active"

    until(is_restarted, seconds=60)


def test_a_reload_replaces_the_processes(machine):
    before = show(machine, "MainPID")
    machine("systemctl", "reload", SERVICE)
    assert status(machine) == 401
    assert show(machine, "MainPID") == before


def test_a_server_that_is_killed_is_started_again(machine):
    before = show(machine, "MainPID")["MainPID"]
    machine("systemctl", "kill", "--signal=KILL", SERVICE)
    until(lambda: show(machine, "MainPID")["MainPID"] not in {before, "0"}, seconds=30)
    assert status(machine) == 401


def test_the_documented_changes_serve_tls_with_a_key_that_only_root_can_read(machine, tmp_path):
    certificate, key = make_certificate(tmp_path)
    folder = "/etc/letsencrypt/live/api.example.com"
    write(machine, f"{folder}/fullchain.pem", certificate.read_text())
    write(machine, f"{folder}/privkey.pem", key.read_text())
    for block in blocks(PAGE, "ini"):
        if "mail_password" in block:
            continue
        unit = "microblog-api.socket" if "[Socket]" in block else SERVICE
        write(machine, f"/etc/systemd/system/{unit}.d/tls.conf", block)
    script = "systemctl daemon-reload; systemctl stop microblog-api.service microblog-api.socket; "
    machine("sh", "-ec", f"{script} systemctl start microblog-api.socket {SERVICE}")
    assert status(machine, 443, "HTTPS") == 401
    machine("sh", "-c", "rm /etc/systemd/system/microblog-api.*.d/tls.conf")
    machine("sh", "-ec", f"{script} systemctl start microblog-api.socket {SERVICE}")
    assert status(machine) == 401


def test_the_documented_change_hands_over_the_password_of_the_mail_server(machine):
    (change,) = [block for block in blocks(PAGE, "ini") if "mail_password" in block]
    write(machine, "/etc/microblog-api/mail_password", "secret")
    write(machine, f"/etc/systemd/system/{SERVICE}.d/mail.conf", change)
    (block,) = [block for block in blocks(MAIL, "ini") if "MAIL_PASSWORD_FILE" in block]
    settings = re.sub("^MAIL_PASSWORD_FILE=.*\n", "", block, flags=re.MULTILINE)
    machine("sh", "-ec", f"cat >> /etc/microblog-api/env <<END\n{settings}END")
    restart = f"systemctl daemon-reload; systemctl restart {SERVICE}"
    machine("sh", "-ec", restart)  # fails with a user name that has no password
    assert status(machine) == 401
    undo = f"rm /etc/systemd/system/{SERVICE}.d/mail.conf; sed -i '/MAIL_/d' /etc/microblog-api/env"
    machine("sh", "-ec", f"{undo}; {restart}")


def test_a_stop_ends_with_status_0(machine):
    machine("systemctl", "stop", SERVICE)
    ended = show(machine, "Result", "ExecMainStatus")
    assert ended == {"Result": "success", "ExecMainStatus": "0"}
