"""`/api/tokens/reset`: a new password for somebody who has forgotten the old one.

As OWASP's Forgot Password Cheat Sheet says: an answer that does not tell whether there is
such a user, a link for one time, and the end of all log ins.
"""

from typing import Any

from apiflask import APIBlueprint, abort

from app.api.links import refuse_link, user_of_link
from app.api.schemas import ForgottenPassword, ResetPassword
from app.auth import public
from app.extensions import db
from app.http import audit, logs
from app.http.audit import Event
from app.http.headers import request
from app.mail.links import Purpose
from app.mail.messages import PASSWORD_CHANGED
from app.mail.outbox import charge_mail, put_notice, put_reset
from app.models import KnownSource, OutdatedError, note_verified
from app.security import password_policy
from app.security.rate_limits import source_of

bp = APIBlueprint(
    "password_reset",
    __name__,
    tag={"name": "Mail", "description": "a forgotten password, and verified addresses"},
)


@bp.post("/tokens/reset")
@public
@bp.doc(responses=[429])
@bp.input(ForgottenPassword, arg_name="fields")
@bp.output({}, 202)
def request_password_reset(fields: dict[str, str]) -> Any:
    """Have a link mailed that sets a new password.

    The answer is the same, after the same time, whether or not there is such a user.
    """
    charge_mail(source_of(request.remote_addr))
    put_reset(fields["login"])
    db.session.commit()
    audit.record(Event.PASSWORD_RESET_REQUESTED, None)
    return {}


@bp.put("/tokens/reset")
@public
@bp.input(ResetPassword, arg_name="fields")
@bp.output({}, status_code=204)
def reset_password(fields: dict[str, str]) -> Any:
    """Set a new password with the token of a link. All tokens end; nobody is logged in."""
    user = user_of_link(Purpose.RESET, fields["token"])
    refusal = password_policy.refusal(fields["new_password"], user.username, user.email)
    if refusal is not None:
        abort(400, detail={"json": {"new_password": [refusal]}})
    db.session.commit()  # no connection is held while the password is hashed
    try:
        user.reset_password(fields["new_password"])
    except OutdatedError:  # another request has just used the link, or changed the address
        refuse_link()
    note_verified(user)  # who has read the mail has its address
    KnownSource.note(user.id, source_of(request.remote_addr))
    put_notice(PASSWORD_CHANGED, user, logs.address(request.remote_addr))
    db.session.commit()
    audit.record(Event.PASSWORD_RESET, user.id)
    return ""
