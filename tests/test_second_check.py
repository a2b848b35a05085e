"""The credential of a request is checked again in the transaction that writes.

If the password is changed, the token revoked or the user deactivated while a request is
under way, the request changes nothing, on every route.
"""

import itertools
import threading
import time

import pytest
import sqlalchemy as sa

from app import db
from app.auth import http_auth
from app.models import AccessToken, KnownSource, Session, User, deactivate, grant_role
from app.security import passwords
from tests.helpers import PASSWORD, at_once, basic, bearer, until_it_waits
from tests.routes import PASSWORD_ONLY, ROUTES

NEW = "battery staple"
# Other routes get what the OpenAPI document has as an example.
BODIES = {
    ("PUT", "/api/users/1"): {"email": "evil@example.com"},
    ("PUT", "/api/users/1/password"): {"current_password": PASSWORD, "new_password": "evil evil"},
}
# READS write nothing. GONE answer 404, as their token has been deleted by then.
READS = {("POST", "/api/tokens/introspect")}
GONE = {
    ("DELETE", "/api/access-tokens/1"),
    ("POST", "/api/access-tokens/1/rotation"),
    ("DELETE", "/api/sessions/1"),
}
WRITES = [route for route in [*ROUTES, *PASSWORD_ONLY] if route[0] != "GET" and route not in READS]


@pytest.fixture
def meanwhile(app):
    """Return a function that runs `call(alice)` in a separate transaction, and waits."""

    def meanwhile(call):
        def run():
            with app.app_context():
                call(db.session.scalar(sa.select(User).where(User.username == "alice")))
                db.session.commit()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "the owner waits for a request that has written nothing"

    return meanwhile


@pytest.fixture
def after_the_first_check(monkeypatch):
    """Return a function that makes `call` run after the first check, before the view."""

    def after_the_first_check(call):
        accept = http_auth._accept  # noqa: SLF001  there is no other place between the two

        def accept_and_call(credential):
            user = accept(credential)
            call()
            return user

        monkeypatch.setattr(http_auth, "_accept", accept_and_call)

    return after_the_first_check


@pytest.fixture
def body_of(client):
    """Gives a body that a route takes; `None` if it takes none."""
    document = client.get("/openapi.json").json
    fallbacks = {"string": "x", "integer": 1, "number": 1, "boolean": True, "array": []}

    def body_of(method, template):
        if (method, template) in BODIES:
            return BODIES[method, template]
        operation = document["paths"][template.replace("/1", "/{id}")][method.lower()]
        if "requestBody" not in operation:
            return None
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        fields = {name: schema["properties"][name] for name in schema.get("required", ())}
        return {
            name: field["examples"][0] if "examples" in field else fallbacks[field["type"]]
            for name, field in fields.items()
        }

    return body_of


def snapshot(app):
    """Return every row of the database, by table."""
    with app.app_context():
        return {
            table.name: sorted(map(str, db.session.execute(sa.select(table))))
            for table in db.metadata.sorted_tables
        }


def change_password(user):
    user.set_password(NEW)


@pytest.fixture
def things(
    client,
    alice,
    bob,
    log_in,
    app,
):
    """What the routes act on, beginning with Alice's login token and an access token."""
    headers = basic("alice")
    with app.app_context():
        grant_role(db.session.get(User, alice), "admin")
        db.session.commit()
    made = {"id": alice, "login": log_in("alice")}
    body = {"name": "script", "scope": "read write introspect"}
    made["access"] = client.post("/api/access-tokens", json=body, headers=headers).json
    body = {"device": "phone"}
    of_device = client.post("/api/tokens", json=body, headers=headers).json["token"]
    client.post("/api/tokens", json={"device": "laptop"}, headers=headers)
    texts = {"login": made["login"], "device": of_device, "access": made["access"]["token"]}
    made["texts"] = texts
    made["device"] = client.get("/api/sessions", headers=headers).json["items"][-2]
    client.post("/api/posts", json={"body": "Hello"}, headers=headers)  # microblog
    client.put(f"/api/users/me/following/{bob}", headers=headers)  # microblog

    def path(template):
        somebody = bob if "/admin/" in template else alice
        real = template.replace("/users/1", f"/users/{somebody}")
        real = real.replace("following/1", f"following/{bob}")  # microblog
        if "/posts/1" in real:  # microblog
            posts = client.get("/api/posts", headers=headers).json["items"]  # microblog
            real = real.replace("/posts/1", f"/posts/{posts[0]['id']}")  # microblog
        real = real.replace("/sessions/1", f"/sessions/{made['device']['id']}")
        return real.replace("/access-tokens/1", f"/access-tokens/{made['access']['id']}")

    return made, path


@pytest.mark.parametrize("ends", ["password changed", "deactivated"])
@pytest.mark.parametrize(
    ("method", "template"), [route for route in WRITES if route != ("PUT", "/api/tokens")]
)
def test_a_request_changes_nothing_if_its_password_is_invalidated_before_the_write(
    app, client, things, body_of, meanwhile, after_the_first_check, method, template, ends
):
    _, path = things
    target = path(template)
    seen = []

    def end():
        meanwhile(change_password if ends == "password changed" else deactivate)
        seen.append(snapshot(app))

    after_the_first_check(end)
    environ = {"REMOTE_ADDR": "203.0.113.66"}
    response = client.open(
        target,
        method=method,
        json=body_of(method, template),
        headers=basic("alice"),
        environ_base=environ,
    )
    assert snapshot(app) == seen[0]
    if (method, template) in GONE:
        assert response.status_code == 404
    else:
        assert (response.status_code, response.json) == (401, {"error": "Unauthorized"})
        assert response.headers["WWW-Authenticate"].startswith("Basic ")


def test_a_new_name_is_401_too(app, client, alice, meanwhile, after_the_first_check):
    after_the_first_check(lambda: meanwhile(deactivate))
    body = {"username": "evil"}
    answer = client.put(f"/api/users/{alice}", json=body, headers=basic("alice"))
    assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})


@pytest.mark.parametrize(
    ("method", "template", "ends", "kind"),
    [
        (*route, ends, kind)
        for route in WRITES
        for ends in ("password changed", "deactivated", "revoked")
        for kind in ("login", "device", "access")
        # Others are not accepted by the route.
        if route not in PASSWORD_ONLY and (kind != "access" or "write" in ROUTES[route])
    ],
)
def test_a_request_changes_nothing_if_its_token_is_ended_before_the_write(
    app, client, things, body_of, meanwhile, after_the_first_check, method, template, ends, kind
):
    made, path = things
    route = (method, template)
    target = path(template)
    verbs = {
        "password changed": change_password,
        "deactivated": deactivate,
        "revoked": lambda user: User.revoke_tokens(user.id),
    }
    seen = []

    def end():
        meanwhile(verbs[ends])
        seen.append(snapshot(app))

    text = made["texts"][kind]
    after_the_first_check(end)
    body = body_of(method, template)
    if kind == "access" and template == "/api/users/1":
        body = {"about_me": "evil"}
    response = client.open(target, method=method, json=body, headers=bearer(text))
    response.close()
    assert snapshot(app) == seen[0]
    is_gone = route in GONE
    is_gone = is_gone or ("/posts/" in template and ends == "deactivated")  # microblog
    if is_gone:
        assert response.status_code == 404
    else:
        assert (response.status_code, response.json) == (401, {"error": "Unauthorized"})
        assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


def test_a_device_that_was_ended_writes_nothing_though_another_one_is_live(
    client, things, meanwhile, after_the_first_check
):
    made, path = things
    after_the_first_check(lambda: meanwhile(lambda user: Session.end(user, made["device"]["id"])))
    headers = bearer(made["texts"]["device"])
    answer = client.put(path("/api/users/1"), json={"about_me": "evil"}, headers=headers)
    assert answer.status_code == 401


def test_a_log_in_that_began_before_all_others_are_ended_is_ended(
    client, alice, meanwhile, after_the_first_check
):
    answer = client.post("/api/tokens", json={"device": "phone"}, headers=basic("alice"))
    shared = []
    after_the_first_check(lambda: meanwhile(lambda user: shared.append(user.get_token())))
    headers = bearer(answer.json["token"])
    assert client.delete("/api/sessions", headers=headers).status_code == 204
    assert client.get("/api/users/me", headers=bearer(shared[0])).status_code == 401


@pytest.mark.parametrize(
    ("method", "template"), [route for route in WRITES if route not in PASSWORD_ONLY]
)
def test_no_event_is_recorded_of_what_was_not_committed(
    client, things, body_of, events, monkeypatch, method, template
):
    def fail():
        raise sa.exc.OperationalError("COMMIT", None, Exception("the connection is lost"))

    made, path = things
    target, body, before = path(template), body_of(method, template), len(events())
    monkeypatch.setattr(db.session, "commit", fail)
    headers = bearer(made["texts"]["login"])
    assert client.open(target, method=method, json=body, headers=headers).status_code == 503
    assert events()[before:] == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_password_changed_during_its_check_makes_no_source_known(
    app, client, alice, meanwhile, monkeypatch, method
):
    find_match = passwords.find_match

    def match_and_change(*args, **kwargs):
        result = find_match(*args, **kwargs)
        meanwhile(change_password)
        return result

    monkeypatch.setattr(passwords, "find_match", match_and_change)
    path = {"GET": "/api/users/me", "POST": "/api/tokens"}[method]
    environ = {"REMOTE_ADDR": "203.0.113.66"}
    response = client.open(path, method=method, headers=basic("alice"), environ_base=environ)
    assert response.status_code == 401
    with app.app_context():
        assert db.session.scalars(sa.select(KnownSource.source)).all() == []


def test_the_old_password_changes_nothing_after_the_new_one_is_acknowledged(
    app, client, alice, client_of
):
    """Attackers at many addresses keep writing with the old password meanwhile."""
    app.config.update(LOGIN_LIMIT_PER_ACCOUNT="100000 per hour")
    counter = itertools.count()  # which threads may share, other than a generator
    old = PASSWORD

    for round_ in range(4):
        new = f"{NEW} {round_}"
        stop = threading.Event()
        statuses = []

        def attack(_number, old=old, stop=stop, statuses=statuses):
            while not stop.is_set():
                count = next(counter)
                answer = app.test_client().put(
                    f"/api/users/{alice}",
                    json={"email": f"evil{count}@example.com"},
                    headers=basic("alice", old),
                    environ_base={"REMOTE_ADDR": f"198.51.{count // 250}.{count % 250}"},
                )
                statuses.append(answer.status_code)

        threads = [threading.Thread(target=attack, args=(number,)) for number in range(7)]
        for thread in threads:
            thread.start()
        while 200 not in statuses:  # the attack is under way
            time.sleep(0.001)
        body = {"current_password": old, "new_password": new}
        answer = client.put(f"/api/users/{alice}/password", json=body, headers=basic("alice", old))
        assert answer.status_code == 204
        before = state(app, alice)
        time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
        assert state(app, alice) == before
        assert set(statuses) == {200, 401}
        old = new


def state(app, id):
    with app.app_context():
        email = db.session.scalar(sa.select(User.email).where(User.id == id))
        sources = db.session.scalars(sa.select(KnownSource.source)).all()
        return email, sorted(sources)


def test_many_writes_of_one_user_at_once_all_succeed(app, alice, token):
    """The second check takes no lock that another write of the same user waits for."""

    def write(number):
        body = {"about_me": f"number {number}"}
        path = f"/api/users/{alice}"
        return app.test_client().put(path, json=body, headers=bearer(token)).status_code

    assert at_once(12, write) == [200] * 12


def test_a_password_change_leaves_no_access_token_made_at_the_same_time(app, client, alice):
    app.config["ACCESS_TOKENS_PER_USER"] = 1000

    def act(number):
        if number == 5:
            body = {"current_password": PASSWORD, "new_password": NEW}
            path = f"/api/users/{alice}/password"
            answer = app.test_client().put(path, json=body, headers=basic("alice"))
        else:
            body = {"name": f"token {number}", "scope": "read"}
            answer = app.test_client().post("/api/access-tokens", json=body, headers=basic("alice"))
        return answer.status_code

    statuses = at_once(12, act)
    assert statuses[5] == 204
    assert set(statuses) <= {201, 204, 401}
    with app.app_context():
        assert db.session.scalars(sa.select(AccessToken)).all() == []


@pytest.mark.slow
def test_concurrent_requests_of_several_users_do_not_deadlock(app, register, caplog, monkeypatch):
    app.config.update(
        ACCESS_TOKENS_PER_USER=1000,
        LOGIN_LIMIT_PER_SOURCE="100000 per hour",
        LOGIN_LIMIT_PER_ACCOUNT="100000 per hour",
        PASSWORD_HASH_CONCURRENCY=8,
    )
    monkeypatch.setitem(app.extensions, "passwords", app.extensions["passwords"])
    passwords.init_app(app)
    names = [f"user{number}" for number in range(4)]
    ids = {name: register(name) for name in names}
    current = dict.fromkeys(names, PASSWORD)
    newest = dict.fromkeys(names, 0)  # access tokens
    acts = [
        ("POST", "/api/access-tokens", lambda n: {"name": f"t{n}", "scope": "read"}),
        ("POST", "/api/access-tokens/{token}/rotation", lambda n: {"overlap_seconds": n % 2}),
        ("PUT", "/api/users/{me}", lambda n: {"about_me": f"number {n}"}),
        ("PUT", "/api/users/{me}", lambda n: {"username": f"other{n}"}),
        ("POST", "/api/tokens", lambda _: None),
        ("DELETE", "/api/tokens", lambda _: None),
        ("POST", "/api/posts", lambda n: {"body": f"{n}"}),  # microblog
        ("PUT", "/api/users/me/following/{other}", lambda _: None),  # microblog
        ("DELETE", "/api/users/me/following/{other}", lambda _: None),  # microblog
    ]

    def act(number):
        statuses = set()
        for round_ in range(30):
            name = names[(number + round_) % len(names)]
            other = ids[names[(number + round_ // 2) % len(names)]]
            method, path, body = acts[(number * 7 + round_) % len(acts)]
            response = app.test_client().open(
                path.format(me=ids[name], other=other, token=newest[name]),
                method=method,
                json=body(number * 1000 + round_),
                headers=basic(f"{name}@example.com", current[name]),
            )
            statuses.add(response.status_code)
            if path == "/api/access-tokens" and response.status_code == 201:
                newest[name] = response.json["id"]
        return statuses

    def change(number):
        name, statuses = names[number % len(names)], set()
        for round_ in range(8):
            new = f"{NEW} {number} {round_}"
            body = {"current_password": current[name], "new_password": new}
            path = f"/api/users/{ids[name]}/password"
            login = basic(f"{name}@example.com", current[name])
            response = app.test_client().put(path, json=body, headers=login)
            if response.status_code == 204:
                current[name] = new
            statuses.add(response.status_code)
            runner = app.test_cli_runner()
            for command in ("deactivate", "activate"):
                result = runner.invoke(args=["users", command, f"{name}@example.com"])
                assert result.exit_code == 0, result.output
        return statuses

    seen = set().union(*at_once(10, lambda n: change(n) if n < 2 else act(n)))
    assert {200, 201, 204} <= seen <= {200, 201, 204, 400, 401, 404, 409}
    assert "deadlock" not in caplog.text


@pytest.mark.parametrize(("overlap", "status"), [(0, 401), (60, 200)])
def test_a_write_with_a_text_that_is_rotated_meanwhile_needs_an_overlap(
    app, client, things, meanwhile, after_the_first_check, overlap, status
):
    made, path = things
    id, text = made["access"]["id"], made["access"]["token"]
    after_the_first_check(lambda: meanwhile(lambda user: AccessToken.rotate(user.id, id, overlap)))
    target = path("/api/users/1")
    with client.put(target, json={"about_me": "Hi"}, headers=bearer(text)) as response:
        assert response.status_code == status
    with app.app_context():
        assert db.session.get(User, made["id"]).about_me == ("Hi" if status == 200 else None)


@pytest.fixture
def while_it_is_written(app, monkeypatch):
    """Return a function that sends a request, and calls `end()` just before its commit.

    The end must wait for the commit.
    """
    commit = db.session.commit

    def while_it_is_written(end, send):
        order = []

        def run():
            end()
            order.append("ended")

        def commit_later():
            if threading.current_thread() is threading.main_thread() and not order:
                order.append("checked")
                thread.start()
                until_it_waits(app, thread, seconds=0.5)
                order.append("written")
            commit()

        thread = threading.Thread(target=run)
        monkeypatch.setattr(db.session, "commit", commit_later)
        response = send()
        thread.join(20)
        assert order == ["checked", "written", "ended"]
        response.close()
        return response

    return while_it_is_written


@pytest.mark.parametrize(
    "commands",
    [
        [("tokens", "revoke", "--all")],
        [("users", "deactivate", "alice"), ("users", "activate", "alice")],
    ],
)
def test_no_token_that_was_being_made_outlives_the_revocation_of_all(
    app, client, alice, token, while_it_is_written, commands
):
    def run(command):
        result = app.test_cli_runner().invoke(args=command)
        assert result.exit_code == 0, result.output

    device = client.post("/api/tokens", json={"device": "x"}, headers=basic("alice")).json["token"]
    client.delete("/api/tokens", headers=bearer(token))  # no row of a user is changed
    body = {"name": "script", "scope": "read"}
    made = while_it_is_written(
        lambda: run(commands[0]),
        lambda: client.post("/api/access-tokens", json=body, headers=bearer(device)),
    )
    assert made.status_code == 201
    for command in commands[1:]:
        run(command)
    assert client.get("/api/users/me", headers=bearer(made.json["token"])).status_code == 401


@pytest.mark.parametrize("kind", ["login", "device", "access"])
def test_a_revocation_is_acknowledged_after_the_writes_of_its_token(
    app, client, things, while_it_is_written, kind
):
    """A write that has passed the second check is committed first.

    test_races.py has the other ways to end a token.
    """
    made, path = things
    text = made["texts"][kind]
    response = while_it_is_written(
        lambda: app.test_client().post("/api/tokens/revoke", data={"token": text}),
        lambda: client.put(path("/api/users/1"), json={"about_me": "Hi"}, headers=bearer(text)),
    )
    assert response.status_code == 200
    assert client.get("/api/users/me", headers=bearer(text)).status_code == 401


@pytest.mark.alone  # measures how long the change takes
def test_a_stream_of_writes_does_not_keep_the_owner_from_changing_the_password(server, register):
    path = f"/api/users/{register('alice')}"
    token = server.request("POST", "/api/tokens", headers=basic("alice")).json["token"]
    stop = threading.Event()
    statuses = []

    def write():
        while not stop.is_set():
            body = {"about_me": "Hi"}
            answer = server.request("PUT", path, json_body=body, headers=bearer(token))
            statuses.append(answer.status)

    threads = [threading.Thread(target=write) for _ in range(16)]
    for thread in threads:
        thread.start()
    while len(statuses) < 50:
        time.sleep(0.01)
    start = time.monotonic()
    body = {"current_password": PASSWORD, "new_password": NEW}
    headers = bearer(token)
    answer = server.request("PUT", f"{path}/password", json_body=body, headers=headers)
    seconds = time.monotonic() - start
    stop.set()
    for thread in threads:
        thread.join()
    assert answer.status == 204
    assert seconds < 5
    assert set(statuses) <= {200, 401}


@pytest.mark.parametrize("number", range(5))
def test_an_access_token_that_ends_while_its_write_waits_writes_nothing(
    app, client, things, config_class, number
):
    """The owner changes the password, and commits while writes wait for the lock."""
    made, path = things
    target = path("/api/users/1")
    with app.app_context():
        user = db.session.scalar(sa.select(User).where(User.username == "alice"))
        user.set_password(NEW)
        db.session.flush()
        results = []

        def write():
            answer = app.test_client().put(
                target, json={"about_me": "late"}, headers=bearer(made["access"]["token"])
            )
            results.append(answer.status_code)
            answer.close()

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert results == []
        db.session.commit()
    for thread in threads:
        thread.join(20)
    assert results == [401] * 4
    with app.app_context():
        assert db.session.scalar(sa.select(User.about_me)) is None
