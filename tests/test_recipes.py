"""The integrations in the documentation: nginx, OAuth 2 clients, curl."""

import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from authlib.oauth2.rfc7662 import IntrospectTokenValidator
from oauthlib.oauth2 import BackendApplicationClient
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from tests.helpers import PASSWORD, ROOT, Server, basic

CONF = (ROOT / "deployment" / "nginx" / "protected-site.conf").read_text()


@pytest.fixture
def access_token(server, register):
    """Return a function that creates an access token of Alice's and returns its text."""
    register("alice")

    def access_token(scope):
        body = {"name": scope, "scope": scope}
        headers = basic("alice")
        answer = server.request("POST", "/api/access-tokens", json_body=body, headers=headers)
        return answer.json["token"]

    return access_token


def wait_for(port):
    for _ in range(100):
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port))):
            return
        time.sleep(0.05)


@pytest.fixture
def nginx(server, tmp_path):
    """Return a function that starts nginx with a configuration and returns its URL."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    root = tmp_path / "www"
    root.mkdir()
    (root / "index.html").write_text("for members")
    tmp_path.chmod(0o755)
    processes = []

    def nginx(conf):
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        for ours, here in [
            ("127.0.0.1:8080", f"127.0.0.1:{port}"),
            ("127.0.0.1:5000", urlsplit(server.url).netloc),
            ("/srv/www", str(root)),
            ("/var/log/nginx", str(tmp_path)),
        ]:
            assert ours in conf
            conf = conf.replace(ours, here)
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n".join(f"{name}_temp_path {tmp_path}/{name};" for name in names)
        main = tmp_path / "nginx.conf"
        main.write_text(
            f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
            + ("user root;\n" if os.getuid() == 0 else "")
            + f"events {{}}\nhttp {{\n{paths}\n{conf}\n}}\n"
        )
        command = [program, "-c", main, "-p", tmp_path]
        processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        wait_for(port)
        return f"http://127.0.0.1:{port}/"

    yield nginx
    for process in processes:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def site(nginx):
    """The URL of a static site; nginx asks the server about every request to it."""
    return nginx(CONF)


def test_nginx_protects_a_site(site, access_token, server):
    def get(token, **options):
        return requests.get(
            site, headers={"Authorization": f"Bearer {token}"}, timeout=20, **options
        )

    good, writer = access_token("read"), access_token("write")
    answer = get(good)
    assert (answer.status_code, answer.text) == (200, "for members")
    # HTTP Basic with the token as the user name works, too.
    assert requests.get(site, auth=(good, ""), timeout=20).status_code == 200
    nobody = requests.get(site, timeout=20)
    assert nobody.status_code == 401
    assert nobody.headers["WWW-Authenticate"] == 'Bearer realm="Microblog API"'
    assert get("x").status_code == 401
    assert get(writer).status_code == 403
    server.request("POST", "/api/tokens/revoke", body=f"token={good}", headers=FORM)
    assert get(good).status_code == 401


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_nginx_passes_on_429_and_answers_503_if_the_api_is_down(site, server):
    answers = [requests.get(site, auth=("nobody", "wrong one"), timeout=20) for _ in range(21)]
    assert [answer.status_code for answer in answers] == [401] * 20 + [429]
    assert int(answers[-1].headers["Retry-After"]) > 0
    server.stop()
    assert requests.get(site, timeout=20).status_code == 503


def test_a_service_behind_nginx_gets_the_user_but_not_the_credentials(
    nginx, access_token, tmp_path
):
    seen = []

    class Service(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        here = f"        proxy_pass http://127.0.0.1:{service.server_port};\n"
        line = "        auth_request /_token;\n"
        address = nginx(CONF.replace(line, line + here))
        text = access_token("read")
        forged = {"X-User-Id": "999", "X-Username": "root", "X-Scope": "write", "X-Roles": "admin"}
        assert requests.get(address, auth=(text, ""), headers=forged, timeout=20).status_code == 204
        service.shutdown()
    names = ("X-Username", "X-Scope", "X-Roles", "Authorization")
    assert [seen[0][name] for name in names] == ["alice", "read", None, None]
    assert seen[0]["X-User-Id"] != "999"
    assert text not in (tmp_path / "protected-site.log").read_text()


def test_requests_oauthlib_logs_in_and_calls(server, register, monkeypatch):
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    alice = register("alice")
    session = OAuth2Session(client=BackendApplicationClient(client_id="alice"))
    token = session.fetch_token(
        f"{server.url}/api/tokens", auth=HTTPBasicAuth("alice", PASSWORD), timeout=20
    )
    assert token["expires_in"] == 3600
    assert session.get(f"{server.url}/api/users/me", timeout=20).json()["id"] == alice
    assert session.delete(f"{server.url}/api/tokens", timeout=20).status_code == 204
    assert session.get(f"{server.url}/api/users/me", timeout=20).status_code == 401


def test_authlib_logs_in_calls_introspects_and_revokes(server, register, access_token):
    with closing(AuthlibSession("alice", PASSWORD)) as session:
        token = session.fetch_token(f"{server.url}/api/tokens", grant_type="client_credentials")
        assert session.get(f"{server.url}/api/users/me").json()["username"] == "alice"
        phone = access_token("read")
        told = session.introspect_token(f"{server.url}/api/tokens/introspect", token=phone)
        assert (told.json()["active"], told.json()["client_id"]) == (True, "read")
        gone = session.revoke_token(f"{server.url}/api/tokens/revoke", token=phone)
        assert gone.status_code == 200
        told = session.introspect_token(f"{server.url}/api/tokens/introspect", token=phone)
        assert told.json() == {"active": False}
        assert session.get(f"{server.url}/api/users/me").status_code == 200
        assert token["access_token"].startswith("mbl_")


def test_an_authlib_resource_server_validates_tokens_by_introspection(server, access_token):
    service = access_token("introspect")

    class Validator(IntrospectTokenValidator):
        def introspect_token(self, token_string):
            return requests.post(
                f"{server.url}/api/tokens/introspect",
                data={"token": token_string, "token_type_hint": "access_token"},
                headers={"Authorization": f"Bearer {service}"},
                timeout=20,
            ).json()

    validator = Validator()
    token = validator.authenticate_token(access_token("read"))
    validator.validate_token(token, ["read"], None)
    assert token["username"] == "alice"
    with pytest.raises(Exception, match="insufficient_scope"):
        validator.validate_token(token, ["write"], None)
    with pytest.raises(Exception, match="invalid_token"):
        validator.validate_token(validator.authenticate_token("mba_x"), ["read"], None)


def test_curl_can_send_the_token_as_the_basic_user_name(server, access_token):
    command = ["curl", "-s", "-u", f"{access_token('read')}:", f"{server.url}/api/users/me"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"username":"alice"' in answer.stdout


def test_a_token_revoked_at_one_process_is_refused_at_another(server, access_token):
    phone = access_token("read")
    with Server(**{**server.environment, "PORT": "0"}) as other:
        headers = {"Authorization": f"Bearer {phone}"}
        assert other.request("GET", "/api/users/me", headers=headers).status == 200
        server.request("POST", "/api/tokens/revoke", body=f"token={phone}", headers=FORM)
        assert other.request("GET", "/api/users/me", headers=headers).status == 401
