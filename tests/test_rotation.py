"""Rotating an access token: a new text, an overlap, and what ends which text."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from app import db
from app.models import AccessToken, access_token
from app.security import tokens
from tests.conftest import is_full_scan
from tests.helpers import at_once, basic, bearer, later

DAY = 24 * 3600
WEEK = 7 * DAY
INVALID = 'error="invalid_token", error_description="the token is not valid"'
EXPIRED = 'error="invalid_token", error_description="the token has expired"'


@pytest.fixture
def made(client, alice):
    """An access token of Alice's, as the answer to its creation."""
    body = {"name": "backup", "scope": "read write introspect"}
    response = client.post("/api/access-tokens", json=body, headers=basic("alice"))
    assert response.status_code == 201
    return response.json


@pytest.fixture
def rotate(client, made):
    def rotate(overlap=0, by=None, **body):
        body = {"overlap_seconds": overlap} | body
        path = f"/api/access-tokens/{made['id']}/rotation"
        return client.post(path, json=body, headers=by or basic("alice"))

    return rotate


@pytest.fixture
def shown(client, made):
    """Return a function that reads the token, alone and in the collection."""

    def shown():
        alone = client.get(f"/api/access-tokens/{made['id']}", headers=basic("alice")).json
        items = client.get("/api/access-tokens", headers=basic("alice")).json["items"]
        assert items == [alone]
        return alone

    return shown


def me(client, text):
    # Closed as by a server: a use is noted when the response is closed.
    with client.get("/api/users/me", headers=bearer(text)) as response:
        return response.status_code


# -- The texts -------------------------------------------------------------------------


def test_a_rotation_changes_the_text_and_nothing_else(client, made, rotate):
    with later(hours=1):
        response = rotate()
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json["token"] != made["token"]
    changed = {"token": response.json["token"], "expires_in": made["expires_in"] - 3600}
    assert response.json == made | changed
    assert me(client, response.json["token"]) == 200


def test_without_an_overlap_the_old_text_fails_at_the_next_request(client, made, rotate, shown):
    assert me(client, made["token"]) == 200
    assert rotate().json["previous_expires_in"] is None
    response = client.get("/api/users/me", headers=bearer(made["token"]))
    assert response.status_code == 401
    assert INVALID in response.headers["WWW-Authenticate"]
    assert shown()["previous_expires_in"] is None


def test_the_overlap_is_0_unless_it_is_given(client, made):
    path = f"/api/access-tokens/{made['id']}/rotation"
    assert client.post(path, json={}, headers=basic("alice")).status_code == 200
    assert me(client, made["token"]) == 401


def test_both_texts_work_until_the_overlap_ends(client, made, rotate, shown):
    new = rotate(WEEK).json
    assert WEEK - 5 < new["previous_expires_in"] <= WEEK
    with later(seconds=WEEK - 5):
        assert [me(client, text) for text in (made["token"], new["token"])] == [200, 200]
    with later(seconds=WEEK + 5):
        response = client.get("/api/users/me", headers=bearer(made["token"]))
        assert response.status_code == 401
        assert EXPIRED in response.headers["WWW-Authenticate"]
        assert me(client, new["token"]) == 200
        assert shown()["previous_expires_in"] is None


def test_the_old_text_has_the_scopes_and_the_limit_of_the_token(client, alice):
    body = {"name": "reader", "scope": "read", "limit": "5 per hour"}
    made = client.post("/api/access-tokens", json=body, headers=basic("alice")).json
    path = f"/api/access-tokens/{made['id']}/rotation"
    assert client.post(path, json={"overlap_seconds": DAY}, headers=basic("alice")).json
    answer = client.get("/api/tokens", headers=bearer(made["token"]))
    assert answer.json["scope"] == "read"
    assert answer.headers["RateLimit-Policy"] == '"default";q=5;w=3600'


def test_the_old_text_expires_with_the_token_if_that_is_sooner(client, alice, log_in):
    headers = basic("alice")
    body = {"name": "short", "scope": "read", "expires_in": 60}
    made = client.post("/api/access-tokens", json=body, headers=headers).json
    path = f"/api/access-tokens/{made['id']}/rotation"
    new = client.post(path, json={"overlap_seconds": WEEK}, headers=headers).json
    assert new["previous_expires_in"] <= new["expires_in"] <= 60


@pytest.mark.parametrize("overlap", [-1, WEEK + 1, 1.5, "60", None, True])
def test_an_invalid_overlap_is_refused_with_what_is_allowed(client, made, rotate, overlap):
    response = rotate(overlap)
    assert response.status_code == 400
    text = "must be a whole number from 0 to 604800 (seconds)"
    assert response.json["errors"] == {"overlap_seconds": [text]}
    assert me(client, made["token"]) == 200


def test_a_misspelled_overlap_is_refused_and_the_old_text_lives_on(client, made):
    path = f"/api/access-tokens/{made['id']}/rotation"
    refused = client.post(path, json={"overlap": 60}, headers=basic("alice"))
    assert refused.status_code == 400
    assert refused.json["errors"] == {"overlap": ["there is no such field"]}
    assert me(client, made["token"]) == 200


def test_introspection_knows_both_texts_each_with_its_own_expiry(client, made, rotate):
    new = rotate(60).json["token"]

    def introspected(text):
        data = {"token": text}
        return client.post("/api/tokens/introspect", data=data, headers=basic("alice")).json

    old, current = introspected(made["token"]), introspected(new)
    assert (old["active"], old["client_id"]) == (True, "backup")
    assert old["exp"] < current["exp"] - 29 * DAY
    assert old | {"exp": 0} == current | {"exp": 0}


# -- What one sees ---------------------------------------------------------------------


def test_the_use_of_the_old_text_is_noted_to_the_hour_beside_that_of_the_new_one(
    client, made, rotate, shown, statements
):
    me(client, made["token"])
    used = shown()["last_used"]
    new = rotate(DAY).json
    assert (new["last_used"], new["previous_last_used"]) == (used, None)
    for _ in range(3):
        me(client, new["token"])
    assert shown()["previous_last_used"] is None
    statements.clear()
    for _ in range(3):
        me(client, made["token"])
    assert sum(text.startswith("UPDATE") for text in statements) == 1
    noted = datetime.fromisoformat(shown()["previous_last_used"])
    assert datetime.now(UTC) - noted < timedelta(seconds=20)
    with later(hours=2):
        me(client, made["token"])
        assert datetime.fromisoformat(shown()["previous_last_used"]) > noted
    assert shown()["last_used"] == used


def test_a_previous_text_counts_as_no_token(app, client, made, rotate, shown):
    app.config["ACCESS_TOKENS_PER_USER"] = 2
    rotate(DAY)
    body = {"name": "second", "scope": "read"}
    for status in (201, 400):
        response = client.post("/api/access-tokens", json=body, headers=basic("alice"))
        assert response.status_code == status
    listed = client.get("/api/access-tokens", headers=basic("alice")).json
    assert listed["_meta"]["total_items"] == len(listed["items"]) == 2
    with app.app_context():
        id = db.session.scalar(sa.select(AccessToken.id).where(AccessToken.current_id.is_not(None)))
    for method in ("GET", "DELETE"):
        response = client.open(f"/api/access-tokens/{id}", method=method, headers=basic("alice"))
        assert response.status_code == 404
    path = f"/api/access-tokens/{id}/rotation"
    assert client.post(path, json={}, headers=basic("alice")).status_code == 404


def test_a_rotation_is_in_the_audit_log(made, rotate, alice, events):
    rotate()
    rotate(60)
    assert rotate(60).status_code == 409
    rotated = [event["user_id"] for event in events() if event["event"] == "token_rotated"]
    assert rotated == [alice, alice]


# -- One overlap at a time -------------------------------------------------------------


def test_no_rotation_shortens_an_overlap_unless_it_ends_all_texts(client, made, rotate):
    second = rotate(3600).json["token"]
    refused = rotate(60)
    assert refused.status_code == 409
    assert "still works for 3600 s" in refused.json["message"]
    assert "overlap_seconds 0" in refused.json["message"]
    assert [me(client, text) for text in (made["token"], second)] == [200, 200]
    third = rotate(0).json["token"]
    assert [me(client, text) for text in (made["token"], second, third)] == [401, 401, 200]
    fourth = rotate(60).json["token"]
    with later(seconds=61):
        fifth = rotate(60).json["token"]
        assert [me(client, text) for text in (third, fourth, fifth)] == [401, 200, 200]


@pytest.mark.parametrize("overlap", [0, 60])
def test_concurrent_rotations_leave_one_current_text(app, client, made, alice, overlap):
    path = f"/api/access-tokens/{made['id']}/rotation"
    body = {"overlap_seconds": overlap}

    def ask(_):
        return app.test_client().post(path, json=body, headers=basic("alice"))

    answers = at_once(8, ask)
    texts = [answer.json["token"] for answer in answers if answer.status_code == 200]
    working = [text for text in texts if me(client, text) == 200]
    assert len(working) == 1
    if overlap:
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
        assert me(client, made["token"]) == 200
    else:
        assert len(texts) == 8
        assert me(client, made["token"]) == 401
    with app.app_context():
        assert len(db.session.scalars(sa.select(AccessToken)).all()) == (2 if overlap else 1)


# -- Who may ---------------------------------------------------------------------------


def test_a_token_of_another_user_is_404(client, made, rotate, bob):
    assert rotate(by=basic("bob")).status_code == 404
    assert me(client, made["token"]) == 200


def test_a_rotation_needs_a_fresh_log_in(client, made, rotate, token):
    headers = bearer(token)
    client.put("/api/tokens", headers=headers)
    with later(seconds=3590):
        client.put("/api/tokens", headers=headers)
    with later(seconds=3700):
        response = rotate(by=headers, overlap="wrong")
        assert response.status_code == 401
        assert "insufficient_user_authentication" in response.headers["WWW-Authenticate"]
        assert me(client, made["token"]) == 200
        assert rotate().status_code == 200


# -- Revoking --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", ["by id", "log out", "log out with old", "RFC 7009", "RFC 7009 with old", "command"]
)
def test_revoking_ends_both_texts(app, client, made, rotate, end):
    old, new = made["token"], rotate(DAY).json["token"]
    if end == "by id":
        client.delete(f"/api/access-tokens/{made['id']}", headers=basic("alice"))
    elif end.startswith("log out"):
        client.delete("/api/tokens", headers=bearer(old if "old" in end else new))
    elif end == "command":
        command = ["tokens", "revoke", "alice", "--name", "backup"]
        assert app.test_cli_runner().invoke(args=command).output == "1 token ended\n"
    else:
        client.post("/api/tokens/revoke", data={"token": old if "old" in end else new})
    assert [me(client, text) for text in (old, new)] == [401, 401]
    with app.app_context():
        assert db.session.scalars(sa.select(AccessToken)).all() == []


def test_a_revoke_command_for_all_counts_tokens_and_ends_both_texts(app, client, made, rotate):
    new = rotate(DAY).json["token"]
    for arguments in (["alice"], ["--all"]):
        output = app.test_cli_runner().invoke(args=["tokens", "revoke", *arguments]).output
        assert output == ("1 token ended\n" if arguments == ["alice"] else "0 tokens ended\n")
        assert [me(client, text) for text in (made["token"], new)] == [401, 401]


def test_a_text_that_a_rotation_has_ended_revokes_nothing(app, client, made, rotate, monkeypatch):
    """The rotation comes between the look-up of the token and its revocation."""
    revoke, new = AccessToken.revoke_text, []

    def rotate_first(*args):
        answer = []
        thread = threading.Thread(target=lambda: answer.append(rotate()))
        thread.start()
        thread.join(20)
        new.append(answer[0].json["token"])
        revoke(*args)

    monkeypatch.setattr(AccessToken, "revoke_text", rotate_first)
    client.post("/api/tokens/revoke", data={"token": made["token"]})
    assert [me(client, text) for text in (made["token"], *new)] == [401, 200]


def test_a_text_that_is_rotated_while_its_revocation_waits_revokes_nothing(
    client, made, rotate, monkeypatch
):
    wait, new = access_token.wait_for_writers, []

    def rotate_first(user_id):
        if not new:
            new.append(None)
            thread = threading.Thread(target=lambda: new.append(rotate().json["token"]))
            thread.start()
            thread.join(20)
        wait(user_id)

    monkeypatch.setattr(access_token, "wait_for_writers", rotate_first)
    client.post("/api/tokens/revoke", data={"token": made["token"]})
    assert [me(client, text) for text in (made["token"], new[1])] == [401, 200]


def test_an_old_text_revokes_nothing_once_its_overlap_is_over(client, made, rotate):
    new = rotate(60).json["token"]
    with later(seconds=61):
        assert client.post("/api/tokens/revoke", data={"token": made["token"]}).status_code == 200
        assert [me(client, text) for text in (made["token"], new)] == [401, 200]


def test_the_previous_text_goes_with_its_token_however_that_is_deleted(app, client, made, rotate):
    """As a server of an earlier release deletes it, or somebody by hand."""
    rotate(DAY)
    with app.app_context():
        db.session.execute(sa.text(f"DELETE FROM access_token WHERE id = {made['id']}"))
        db.session.commit()
        assert db.session.scalars(sa.select(AccessToken)).all() == []
    assert me(client, made["token"]) == 401


def test_a_rotation_beside_the_revocation_of_everything_leaves_no_text(
    app, client, made, rotate, monkeypatch
):
    texts = [made["token"]]
    make = tokens.make

    def revoke_all():
        app.test_cli_runner().invoke(args=["tokens", "revoke", "--all"])

    thread = threading.Thread(target=revoke_all)

    def make_while_all_is_revoked(*args):
        thread.start()
        thread.join(0.5)  # it waits for the rotation
        texts.append(make(*args))
        return texts[-1]

    monkeypatch.setattr(tokens, "make", make_while_all_is_revoked)
    assert rotate(DAY).status_code == 200
    thread.join(20)
    assert not thread.is_alive()
    assert [me(client, text) for text in texts] == [401, 401]
    with app.app_context():
        assert db.session.scalars(sa.select(AccessToken)).all() == []


# -- What a check costs ----------------------------------------------------------------


def test_both_texts_are_checked_with_one_select(client, made, rotate, statements):
    new = rotate(DAY).json["token"]
    for text in (made["token"], new):
        me(client, text)
        statements.clear()
        assert me(client, text) == 200
        assert [statement.split()[0] for statement in statements] == ["SELECT"]


def test_both_texts_are_found_by_one_unique_index(client, made, rotate, plans):
    new = rotate(DAY).json["token"]
    for text in (made["token"], new):
        plans.clear()
        assert me(client, text) == 200
        ((statement, plan),) = plans
        assert "uq_access_token_digest" in plan or "sqlite_autoindex_access_token_1" in plan
        assert not is_full_scan(statement, plan)


def test_the_statements_of_a_rotation_and_of_the_list_use_indexes(client, made, rotate, plans):
    rotate(DAY)
    client.get("/api/access-tokens", headers=basic("alice"))
    client.get(f"/api/access-tokens/{made['id']}", headers=basic("alice"))
    assert any("current_id" in statement for statement, _ in plans)
    for statement, plan in plans:
        assert not is_full_scan(statement, plan), f"{statement}\n{plan}"


def test_both_texts_are_checked_in_one_round_trip(made, rotate, round_trips):
    new = rotate(DAY).json["token"]
    for text in (made["token"], new):
        assert round_trips("GET", "/api/users/me", headers=bearer(text)) == 1


# -- Under load ------------------------------------------------------------------------


class Fleet:
    """Access tokens of Alice's on a server, and threads that use the newest text of each."""

    def __init__(self, server, user_id):
        self.server, self.user_id = server, user_id
        log_in = server.request("POST", "/api/tokens", headers=basic("alice"))
        self.login = bearer(log_in.json["token"])
        self.ids, self.texts, self.statuses = [], [], []
        self.is_over = threading.Event()

    def make(self, name):
        body = {"name": name, "scope": "read write"}
        answer = self.server.request(
            "POST", "/api/access-tokens", headers=self.login, json_body=body
        )
        self.ids.append(answer.json["id"])
        self.texts.append(answer.json["token"])

    def use_in_turns(self, number):
        while not self.is_over.is_set():
            number += 1
            headers = bearer(self.texts[number % len(self.texts)])
            self.statuses.append(self.write(headers) if number % 5 == 0 else self.read(headers))

    def read(self, headers):
        return self.server.request("GET", "/api/users/me", headers=headers).status

    def write(self, headers):
        path, body = f"/api/users/{self.user_id}", {"about_me": "Hi"}
        return self.server.request("PUT", path, headers=headers, json_body=body).status

    def rotate(self, number, overlap):
        path = f"/api/access-tokens/{self.ids[number]}/rotation"
        body = {"overlap_seconds": overlap}
        answer = self.server.request("POST", path, headers=self.login, json_body=body)
        if answer.status == 200:
            self.texts[number] = answer.json["token"]
        return answer.status


@pytest.mark.slow
def test_no_request_fails_while_tokens_are_rotated_with_an_overlap(server, register):
    """16 threads use ten tokens, each of which is rotated five times."""
    fleet = Fleet(server, register("alice"))
    for number in range(10):
        fleet.make(f"token {number}")
    threads = [threading.Thread(target=fleet.use_in_turns, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    answers = []
    while answers.count(200) < 50:
        # Longer than any request waits.
        answers += [fleet.rotate(number, 3) for number in range(10)]
        fleet.is_over.wait(0.3)
    fleet.is_over.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {200, 409}
    assert set(fleet.statuses) == {200}
    assert len(fleet.statuses) > 1000
    print(f"{answers.count(200)} rotations, {len(fleet.statuses)} requests, none failed")
    for number, old in enumerate(list(fleet.texts)):
        assert fleet.rotate(number, 0) == 200
        assert fleet.read(bearer(old)) == 401
        assert fleet.read(bearer(fleet.texts[number])) == 200
