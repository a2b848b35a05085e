"""Roles of users: who gets one, what it opens, and when it ends."""

import threading

import pytest
from apiflask import APIBlueprint
from sqlalchemy.exc import StatementError

from app import create_app, db
from app.auth import any_auth, fresh, roles_required
from app.http.errors import found
from app.models import User
from app.models.roles import MOST_ROLES, grant_role, revoke_role
from tests.helpers import at_once, basic, bearer

bp = APIBlueprint("roles_of_tests", __name__)


@bp.get("/reports")
@bp.auth_required(any_auth, roles=["read"])
@roles_required("admin", "support")
@bp.output({})
def get_reports():
    return {}


@bp.get("/both")
@bp.auth_required(any_auth)
@roles_required("admin")
@roles_required("support")
@fresh
@bp.output({})
def get_both():
    return {}


@bp.put("/others/<int:id>")
@bp.auth_required(any_auth)
@roles_required("admin")
@bp.output({})
def change_other(id):
    return change(id)


@bp.put("/others/<int:id>/twice")
@bp.auth_required(any_auth)
@roles_required("admin")
@roles_required("support")
@bp.output({})
def change_other_with_both_roles(id):
    return change(id)


def change(id):
    meanwhile()
    user = found(User.find(id))
    user.about_me = "changed by an administrator"
    db.session.commit()
    return {}


def meanwhile():
    """Replaced by tests."""


@pytest.fixture
def own(app, config_class):
    """A client of an application with the routes above, on the same database."""
    other = create_app(config_class)
    other.register_blueprint(bp)
    yield other.test_client()
    with other.app_context():
        db.engine.dispose()


@pytest.fixture
def roles(app):
    """Return a function that runs `flask users <verb> <user> <role>` and returns its output."""
    runner = app.test_cli_runner()

    def roles(verb, user, role, *, fails=False):
        result = runner.invoke(args=["users", verb, user, role])
        assert (result.exit_code != 0) == fails, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.output

    return roles


@pytest.fixture
def access_token(client, alice):
    """The text of an access token of Alice's with every scope."""
    body = {"name": "script", "scope": "read write introspect"}
    return client.post("/api/access-tokens", json=body, headers=basic("alice")).json["token"]


def test_a_route_with_roles_opens_for_one_of_them_and_names_them_otherwise(own, token, roles):
    refused = own.get("/reports", headers=bearer(token))
    assert refused.status_code == 403
    assert refused.json["message"] == "this takes one of the roles admin, support"
    roles("grant", "alice", "supporter")
    assert own.get("/reports", headers=bearer(token)).status_code == 403
    roles("grant", "alice", "support")
    for headers in (bearer(token), basic("alice"), basic(token, "")):
        assert own.get("/reports", headers=headers).status_code == 200
    assert own.get("/reports").status_code == 401


def test_two_decorators_require_both_roles(own, token, roles):
    roles("grant", "alice", "admin")
    refused = own.get("/both", headers=bearer(token))
    assert (refused.status_code, refused.json["message"]) == (403, "this takes the role support")
    roles("grant", "alice", "support")
    assert own.get("/both", headers=bearer(token)).status_code == 200


def test_a_role_that_is_revoked_opens_nothing_from_the_next_request_on(own, token, roles):
    roles("grant", "alice", "admin")
    assert own.get("/reports", headers=bearer(token)).status_code == 200
    roles("revoke", "alice", "admin")
    assert own.get("/reports", headers=bearer(token)).status_code == 403


def test_an_access_token_has_no_role_of_its_owner(own, client, alice, access_token, roles):
    roles("grant", "alice", "admin")
    headers = bearer(access_token)
    refused = own.get("/reports", headers=headers)
    assert refused.status_code == 403
    assert "not an access token" in refused.json["message"]
    assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    told = client.get("/api/tokens", headers=headers)
    assert (told.json["roles"], told.headers["X-Roles"]) == ([], "")
    form = {"token": access_token}
    told = client.post("/api/tokens/introspect", data=form, headers=basic("alice")).json
    assert told["active"]
    assert "roles" not in told


def test_roles_are_told_to_their_owner_and_to_services(client, alice, bob, token, roles):
    assert client.get("/api/tokens", headers=bearer(token)).headers["X-Roles"] == ""
    form = {"token": token}
    told = client.post("/api/tokens/introspect", data=form, headers=basic("bob")).json
    assert "roles" not in told
    roles("grant", "alice", "support")
    roles("grant", "alice", "admin")
    for headers in (bearer(token), basic("alice")):
        told = client.get("/api/tokens", headers=headers)
        assert told.json["roles"] == ["support", "admin"]
        assert told.headers["X-Roles"] == "support admin"
    told = client.post("/api/tokens/introspect", data=form, headers=basic("bob")).json
    assert told["roles"] == ["support", "admin"]
    assert client.get("/api/users/me", headers=bearer(token)).json["roles"] == ["support", "admin"]
    assert "roles" not in client.get(f"/api/users/{alice}", headers=basic("bob")).json


def test_a_device_has_the_roles_of_its_user(own, alice, roles):
    made = own.post("/api/tokens", json={"device": "phone"}, headers=basic("alice")).json
    assert own.get("/reports", headers=bearer(made["token"])).status_code == 403
    roles("grant", "alice", "admin")
    assert own.get("/reports", headers=bearer(made["token"])).status_code == 200


def test_no_request_can_give_a_role(client, register, log_in):
    id = register("alice", roles=["admin"])
    token = log_in("alice")
    client.put(f"/api/users/{id}", json={"roles": ["admin"]}, headers=bearer(token))
    assert client.get("/api/users/me", headers=bearer(token)).json["roles"] == []


# -- Writes in flight --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "revoked"),
    [("/others/{}", "admin"), ("/others/{}/twice", "admin"), ("/others/{}/twice", "support")],
)
def test_a_write_in_flight_changes_nothing_once_the_role_is_revoked(
    own, client, alice, bob, token, roles, monkeypatch, path, revoked
):
    roles("grant", "alice", "admin")
    roles("grant", "alice", "support")

    def revoke():
        thread = threading.Thread(target=roles, args=("revoke", "alice", revoked))
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "the owner waits for a request that has written nothing"

    monkeypatch.setitem(globals(), "meanwhile", revoke)
    refused = own.put(path.format(bob), headers=bearer(token))
    assert (refused.status_code, refused.json["message"]) == (403, f"this takes the role {revoked}")
    seen = client.get(f"/api/users/{bob}", headers=bearer(token)).json
    assert seen["about_me"] is None


def test_a_revocation_is_acknowledged_after_the_writes_of_the_role(
    own, alice, bob, token, roles, monkeypatch
):
    roles("grant", "alice", "admin")
    order = []
    commit = db.session.commit

    def revoke():
        roles("revoke", "alice", "admin")
        order.append("revoked")

    thread = threading.Thread(target=revoke)

    def commit_after_the_revocation_has_begun():
        if threading.current_thread() is threading.main_thread() and not order:
            db.session.flush()
            order.append("checked")
            thread.start()
            thread.join(0.5)
            order.append("written")
        commit()

    monkeypatch.setattr(db.session, "commit", commit_after_the_revocation_has_begun)
    assert own.put(f"/others/{bob}", headers=bearer(token)).status_code == 200
    thread.join(20)
    assert order == ["checked", "written", "revoked"]


def test_roles_that_are_granted_at_once_are_all_kept(app, client, alice, token, roles):
    words = [f"role{number}" for number in range(8)]
    at_once(8, lambda number: roles("grant", "alice", words[number]))
    told = client.get("/api/tokens", headers=bearer(token)).json["roles"]
    assert sorted(told) == words


# -- The commands ------------------------------------------------------------------------


def test_a_role_whose_name_begins_the_same_stays(alice, roles, app):
    for role in ("support", "support-lead"):
        roles("grant", "alice", role)
    roles("revoke", "alice", "support")
    listed = app.test_cli_runner().invoke(args=["users", "list"]).output
    assert listed.endswith("\tsupport-lead\n")


def test_a_role_is_granted_listed_and_revoked(alice, roles, app, events):
    assert roles("grant", "alice@example.com", "admin") == "alice has the role admin\n"
    assert roles("grant", "alice", "admin") == "alice has the role admin already\n"
    roles("grant", "alice", "support")
    listed = app.test_cli_runner().invoke(args=["users", "list"]).output
    assert listed == f"{alice}\talice\talice@example.com\tactive\tadmin support\n"
    assert roles("revoke", "alice", "admin") == "alice does not have the role admin any more\n"
    told = [(line["event"], line["user_id"], line["role"]) for line in events()]
    assert told == [
        ("role_granted", alice, "admin"),
        ("role_granted", alice, "support"),
        ("role_revoked", alice, "admin"),
    ]


@pytest.mark.parametrize("role", ["Admin", "1st", "a b", "", "a" * 33, "ädmin", "admin\n", "-x"])
def test_a_word_that_is_no_role_is_refused_with_what_is_allowed(alice, roles, role):
    output = roles("grant", "alice", role, fails=True) if role != "-x" else None
    expected = "Error: role: must be 1 to 32 of the characters a-z 0-9 _ -, the first one a letter"
    assert output in (expected + "\n", None)


def test_a_word_that_is_no_role_is_refused_in_code_too(app, alice):
    with app.app_context(), pytest.raises(ValueError, match="the first one a letter"):
        grant_role(db.session.get(User, alice), "Admin")


def test_wrong_roles_and_users_are_named_in_one_line(alice, roles):
    roles("grant", "alice", "support")
    assert (
        roles("revoke", "alice", "suport", fails=True)
        == "Error: alice does not have the role 'suport'; has: support\n"
    )
    output = roles("grant", "nobody", "admin", fails=True)
    assert output == "Error: no user has the user name or e-mail address 'nobody'\n"


def test_a_user_has_a_limited_number_of_roles(alice, roles):
    for number in range(MOST_ROLES):
        roles("grant", "alice", f"{'r' * 29}{number}")
    output = roles("grant", "alice", "admin", fails=True)
    assert output == f"Error: limit of {MOST_ROLES} roles reached\n"


def test_a_text_in_place_of_a_list_of_roles_is_refused(app, alice):
    with app.app_context():
        db.session.get(User, alice).roles = "admin"  # which would be the roles a, d, m, i, n
        with pytest.raises(StatementError, match="set a list of words"):
            db.session.flush()


def test_the_user_has_the_role_at_once_and_no_longer(app, alice):
    with app.app_context():
        user = db.session.get(User, alice)
        assert grant_role(user, "admin")
        assert user.roles == ["admin"]
        assert revoke_role(user, "admin")
        assert user.roles == []


# -- The decorator -----------------------------------------------------------------------


@pytest.mark.parametrize("names", [(), ("Admin",), ("admin", "a b")])
def test_the_decorator_refuses_what_is_no_role(names):
    with pytest.raises(ValueError, match="a role must be 1 to 32 of"):
        roles_required(*names)


def test_the_decorator_refuses_to_run_before_the_credentials_are_checked():
    @any_auth.login_required
    def view():
        pass

    with pytest.raises(TypeError, match="below auth_required"):
        roles_required("admin")(view)


def test_the_document_names_the_roles_of_a_route(own):
    paths = own.get("/openapi.json").json["paths"]
    reports, both = paths["/reports"]["get"], paths["/both"]["get"]
    takes = "Takes a login token, or a password, of a user with the role"
    assert reports["description"] == f"{takes} `admin` or `support`."
    assert both["description"] == f"{takes} `support` and `admin`."
    assert reports["security"] == [{"Password": []}, {"Token": ["account"]}]
