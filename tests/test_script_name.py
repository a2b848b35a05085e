"""A proxy serves the API under a path: all links begin with it."""

import pytest

from tests.helpers import PASSWORD, basic, bearer


def links_in(thing):
    """Return every URL in the `_links` of a JSON answer, those of other hosts left out."""
    if isinstance(thing, list):
        return [link for item in thing for link in links_in(item)]
    if not isinstance(thing, dict):
        return []
    own = [link for link in thing.get("_links", {}).values() if link and link.startswith("/")]
    return own + [link for value in thing.values() for link in links_in(value)]


# Whether the proxy removes the path.
@pytest.fixture(params=["", "/app"])
def left(request):
    return request.param


@pytest.fixture
def client(client_of):
    return client_of(SCRIPT_NAME="/app")


def test_every_link_begins_with_the_path(client, left, alice, bob, token):
    headers = bearer(token)
    paths = ["/api/users", "/api/users?per_page=1", "/api/users/me", f"/api/users/{bob}"]
    paths += ["/api/posts?per_page=1", f"/api/users/{bob}/followers"]  # microblog
    for path in paths:
        response = client.get(f"{left}{path}", headers=headers)
        assert response.status_code == 200
        links = links_in(response.json)
        assert links
        for link in links:
            assert link.startswith("/app/api/")
            assert client.get(link, headers=headers).status_code == 200


def test_a_location_begins_with_the_path(client, left):
    body = {"username": "susan", "email": "susan@example.com", "password": PASSWORD}
    response = client.post(f"{left}/api/users", json=body)
    location = response.headers["Location"]
    assert location == f"/app/api/users/{response.json['id']}"
    assert client.get(location, headers=basic("susan")).json["username"] == "susan"
    access = {"name": "backup", "scope": "read", "expires_in": 600}
    response = client.post(f"{left}/api/access-tokens", json=access, headers=basic("susan"))
    assert response.headers["Location"].startswith("/app/api/access-tokens/")


def test_the_start_page_leads_to_the_documentation(client, left):
    for path in {f"{left}/", left or "/"}:
        response = client.get(path)
        assert (response.status_code, response.headers["Location"]) == (302, "/app/docs")
    assert client.get("/app/docs").status_code == 200


def test_the_document_names_the_path(client, left):
    document = client.get(f"{left}/openapi.json").json
    assert document["servers"] == [{"url": "/app"}]
    assert "/api/users" in document["paths"]


def test_the_document_names_the_path_of_another_wsgi_server(client_of):
    client = client_of()
    environ = {"SCRIPT_NAME": "/mounted"}
    for _ in range(2):
        document = client.get("/openapi.json", environ_overrides=environ).json
        assert document["servers"] == [{"url": "/mounted"}]
        assert "servers" not in client.get("/openapi.json").json


def test_a_server_that_sets_the_path_itself_is_left_alone(client, token):
    environ = {"SCRIPT_NAME": "/app"}
    me = client.get("/api/users/me", headers=bearer(token), environ_overrides=environ).json
    assert me["_links"]["self"].startswith("/app/api/users/")


@pytest.mark.parametrize("path", ["/application/api/users", "/app/app/api/users", "/APP/api/users"])
def test_other_paths_are_404(client, token, path):
    assert client.get(path, headers=bearer(token)).status_code == 404


def test_x_forwarded_prefix_is_ignored(client_of, token):
    client = client_of(TRUSTED_PROXIES=1)
    headers = bearer(token) | {"X-Forwarded-Prefix": "/evil"}
    assert "evil" not in client.get("/api/users", headers=headers).text


def test_a_server_answers_under_its_path_and_without(server_with, token):
    server = server_with(SCRIPT_NAME="/app/")
    for path in ("/app/api/users/me", "/api/users/me"):
        answer = server.request("GET", path, headers=bearer(token))
        assert (answer.status, answer.json["_links"]["self"][:15]) == (200, "/app/api/users/")
    for path in ("/livez", "/app/livez"):
        assert server.request("GET", path).status == 200
    document = server.request("GET", "/app/openapi.json").json
    assert document["servers"] == [{"url": "/app"}]
