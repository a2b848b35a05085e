"""`/api/admin/users`: for users with the role `admin` who have just given their password."""

from typing import Any

from apiflask import APIBlueprint, abort

from app.api.schemas import AdminUserCollection, AdminUserOut, UserSearchQuery, collection
from app.auth import any_auth, fresh, roles_required
from app.extensions import db
from app.http import audit
from app.http.audit import Event
from app.http.errors import found
from app.models import Session, User, activate, deactivate, page_of_everybody

bp = APIBlueprint(
    "admin",
    __name__,
    tag={"name": "Administration", "description": "find users, deactivate them, end their log ins"},
)


@bp.get("/admin/users")
@bp.auth_required(any_auth)
@roles_required("admin")
@fresh
@bp.input(UserSearchQuery, location="query")
@bp.output(AdminUserCollection)
def get_all_users(query_data: dict[str, Any]) -> Any:
    """List all users by ascending id, deactivated ones included, or search for some."""
    searched = {name: query_data[name] for name in ("search",) if name in query_data}
    return collection(page_of_everybody(**query_data), ".get_all_users", **searched)


@bp.get("/admin/users/<int:id>")
@bp.auth_required(any_auth)
@roles_required("admin")
@fresh
@bp.output(AdminUserOut)
def get_any_user(id: int) -> Any:
    """Read a user, also a deactivated one."""
    return _user(id)


@bp.put("/admin/users/<int:id>/deactivation")
@bp.auth_required(any_auth)
@roles_required("admin")
@fresh
@bp.output({}, status_code=204)
def deactivate_any_user(id: int) -> Any:
    """Deactivate another user: all their tokens end, and they disappear from every route.

    No error if they are deactivated already.
    """
    own_id = any_auth.current_credential().user_id
    if id == own_id:
        abort(400, "you cannot deactivate yourself here; to leave, DELETE your own user")
    changed = deactivate(_user(id), by=own_id)
    db.session.commit()
    if changed:
        audit.record(Event.DEACTIVATED, id, by=own_id)
    return ""


@bp.delete("/admin/users/<int:id>/deactivation")
@bp.auth_required(any_auth)
@roles_required("admin")
@fresh
@bp.output({}, status_code=204)
def activate_any_user(id: int) -> Any:
    """Activate a user again; ended tokens stay ended. No error if they are active."""
    own_id = any_auth.current_credential().user_id
    changed = activate(_user(id), by=own_id)
    db.session.commit()
    if changed:
        audit.record(Event.ACTIVATED, id, by=own_id)
    return ""


@bp.delete("/admin/users/<int:id>/sessions")
@bp.auth_required(any_auth)
@roles_required("admin")
@fresh
@bp.output({}, status_code=204)
def end_sessions_of_user(id: int) -> Any:
    """End all log ins of a user. Access tokens stay, as at `DELETE /api/sessions`."""
    own_id = any_auth.current_credential().user_id
    Session.end_all(_user(id), by=own_id)
    db.session.commit()
    audit.record(Event.TOKEN_REVOKED, id, by=own_id)
    return ""


def _user(id: int) -> User:
    return found(User.find(id, also_deactivated=True))
