"""Verify an e-mail address: with the token of a link, and have the link mailed again."""

from typing import Any

from apiflask import APIBlueprint, abort

from app.api.links import refuse_link, user_of_link
from app.api.schemas import LinkToken
from app.auth import any_auth, open_to_unverified, own_account, public
from app.extensions import db
from app.http import audit
from app.http.audit import Event
from app.http.headers import request
from app.mail.links import Purpose
from app.mail.outbox import charge_mail, put_verification
from app.models import AlreadyTakenError, OutdatedError, address_to_verify, verify_address
from app.security.rate_limits import source_of

bp = APIBlueprint("email_verifications", __name__, tag="Mail")


@bp.post("/email-verifications")
@public
@bp.input(LinkToken, arg_name="fields")
@bp.output({}, status_code=204)
def verify_email(fields: dict[str, str]) -> Any:
    """Confirm an e-mail address with the token of a link; it replaces the former one."""
    user = user_of_link(Purpose.VERIFY, fields["token"])
    former = user.email
    try:
        verify_address(user)
    except AlreadyTakenError:
        abort(400, "another user has this address by now")
    except OutdatedError:  # another request has just used the link
        refuse_link()
    db.session.commit()
    if user.email != former:
        audit.record(Event.EMAIL_CHANGED, user.id)
    audit.record(Event.EMAIL_VERIFIED, user.id)
    return ""


@bp.post("/users/<int:id>/email-verification")
@bp.auth_required(any_auth)
@own_account
@open_to_unverified
@bp.output({}, 202)
def send_verification() -> Any:
    """Send the link again that verifies your e-mail address."""
    user = any_auth.current_user()
    if address_to_verify(user) is None:
        abort(400, "your e-mail address is verified already")
    charge_mail(source_of(request.remote_addr))
    put_verification(user)
    db.session.commit()
    return {}
