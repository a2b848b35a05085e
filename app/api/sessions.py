"""`/api/sessions`: list one's log ins, and end them."""

from typing import Any

from apiflask import APIBlueprint, abort

from app.api.schemas import PageQuery, SessionCollection, collection
from app.auth import any_auth
from app.extensions import db
from app.http import audit
from app.http.audit import Event
from app.models import Page, Session

bp = APIBlueprint(
    "sessions", __name__, tag={"name": "Sessions", "description": "your log ins, on all devices"}
)


@bp.get("/sessions")
@bp.auth_required(any_auth)
@bp.input(PageQuery, location="query")
@bp.output(SessionCollection)
def get_sessions(query_data: dict[str, int]) -> Any:
    """List your log ins: the shared one first, then those of devices by ascending id."""
    page = Page.of_list(Session.all_of(any_auth.current_user()), **query_data)
    return collection(page, ".get_sessions")


@bp.delete("/sessions")
@bp.auth_required(any_auth)
@bp.output({}, status_code=204)
def end_other_sessions() -> Any:
    """End all your log ins but the one of this request. Access tokens stay."""
    credential = any_auth.current_credential()
    Session.end_others(credential.user, credential.session_id)
    db.session.commit()
    audit.record(Event.TOKEN_REVOKED, credential.user_id)
    return ""


@bp.delete("/sessions/<int:id>")
@bp.auth_required(any_auth)
@bp.output({}, status_code=204)
def end_session(id: int) -> Any:
    """End one of your log ins."""
    user = any_auth.current_user()
    if not Session.end(user, id):
        abort(404)
    db.session.commit()
    audit.record(Event.TOKEN_REVOKED, user.id)
    return ""
