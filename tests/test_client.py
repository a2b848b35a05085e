"""The client in `docs/clients/client.py` keeps its user logged in, and notices when it may not."""

import importlib.util
import stat
import time

import pytest
import requests

from tests.helpers import PASSWORD, ROOT, Server, basic

pytestmark = pytest.mark.slow

PATH = ROOT / "docs" / "clients" / "client.py"
spec = importlib.util.spec_from_file_location("client", PATH)
client_module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(client_module)
LIFETIME = 4  # seconds


@pytest.fixture
def server(tmp_path):
    settings = {"ARGON2_MEMORY_KIB": "8", "ARGON2_TIME_COST": "1", "FRESH_LOGIN_SECONDS": "2"}
    settings |= {"SECRET_KEY": "of the tests, long enough for no warning"}
    settings |= {"TOKEN_LIFETIME_SECONDS": str(LIFETIME)}
    with Server(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", **settings) as server:
        body = {"username": "alice", "email": "alice@example.com", "password": PASSWORD}
        assert server.request("POST", "/api/users", json_body=body).status == 201
        yield server


@pytest.fixture
def asked():
    """How often the client has asked for the password."""
    return []


@pytest.fixture
def make_client(server, asked, tmp_path):
    def make_client(password=PASSWORD, username="alice"):
        def ask():
            asked.append(1)
            return password

        return client_module.Client(server.url, username, ask, tmp_path / "token.json")

    return make_client


def status(client, method="GET", path="/api/users/me", **options):
    return client.request(method, path, **options).status_code


def test_it_logs_in_once_and_keeps_the_token_for_its_owner_only(make_client, asked, tmp_path):
    assert [status(make_client()) for _ in range(3)] == [200, 200, 200]
    assert len(asked) == 1
    assert stat.S_IMODE((tmp_path / "token.json").stat().st_mode) == 0o600


def test_it_renews_a_token_in_use(make_client, asked):
    client = make_client()
    for _ in range(5):
        assert status(client) == 200
        time.sleep(LIFETIME * 0.6)
    assert len(asked) == 1


def test_it_logs_in_again_when_the_token_has_expired(make_client, asked):
    client = make_client()
    assert status(client) == 200
    time.sleep(LIFETIME + 1)
    assert status(client) == 200
    assert len(asked) == 2


def test_it_logs_in_again_where_the_log_in_is_too_old(make_client, asked):
    client = make_client()
    assert status(client) == 200
    time.sleep(2.5)
    body = {"name": "backup", "scope": "read"}
    assert status(client, "POST", "/api/access-tokens", json=body) == 201
    assert len(asked) == 2


def test_it_says_that_it_was_logged_out_and_does_not_log_in_by_itself(server, make_client, asked):
    client = make_client()
    assert status(client) == 200
    server.request("DELETE", "/api/sessions", headers=basic("alice"))
    with pytest.raises(client_module.LoggedOutError):
        status(client)
    assert len(asked) == 1
    assert status(client) == 200
    assert len(asked) == 2


def test_it_logs_out(make_client, asked, tmp_path):
    client = make_client()
    status(client)
    client.log_out()
    assert not (tmp_path / "token.json").exists()
    assert status(client) == 200
    assert len(asked) == 2


def test_a_wrong_password_is_an_error(make_client):
    with pytest.raises(requests.HTTPError, match="wrong user name or password"):
        status(make_client("wrong"))


def test_the_token_of_one_user_is_not_used_for_another(make_client, asked):
    assert status(make_client()) == 200
    assert status(make_client(username="alice@example.com")) == 200
    assert len(asked) == 2


def test_a_file_that_was_cut_off_means_a_log_in(make_client, asked, tmp_path):
    (tmp_path / "token.json").write_text('{"tok')
    assert status(make_client()) == 200
    assert len(asked) == 1


def test_another_log_in_ends_the_former_one_of_the_device(server, make_client):
    client = make_client()
    assert status(client) == 200
    client.log_in()
    listed = server.request("GET", "/api/sessions", headers=basic("alice")).json
    assert listed["_meta"]["total_items"] == 1
