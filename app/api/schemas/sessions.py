"""Log ins of a user, in responses."""

from apiflask.fields import DateTime, Function, Integer, List, Nested, String

from app.api.schemas.base import Answer, PageLinks, PageMeta
from app.api.schemas.fields import A_TIME, about
from app.auth.credential import credential_of_request
from app.models import Session


def is_current(session: Session) -> bool:
    credential = credential_of_request()
    return credential is not None and credential.session_id == session.id


class SessionOut(Answer):
    id = Integer(metadata=about(1, "0 for the shared log in"))
    device = String(allow_none=True, metadata=about("Alice's phone", "null for the shared log in"))
    created = DateTime(allow_none=True, metadata=about(A_TIME, "null if unknown"))
    last_used = DateTime(allow_none=True, metadata=about(A_TIME, "to the hour; null if unknown"))
    address = String(allow_none=True, metadata=about("203.0.113.7", "of the last log in"))
    user_agent = String(allow_none=True, metadata=about("curl/8.5.0", "of the last log in"))
    expires_in = Integer(attribute="seconds_left", metadata=about(3600, "seconds until expiry"))
    current = Function(
        is_current,
        metadata=about(True, "whether it is that of this request", type="boolean"),
    )


class SessionCollection(Answer):
    items = List(Nested(SessionOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")
