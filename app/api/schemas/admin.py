"""Users as administrators see them."""

from apiflask.fields import Boolean, DateTime, List, Nested, String
from marshmallow.validate import Length

from app.api.schemas.base import Answer, PageLinks, PageMeta, PageQuery
from app.api.schemas.fields import A_TIME, Links, Text, about, link
from app.api.schemas.users import UserName
from app.http.headers import path_to
from app.models import User


class UserSearchQuery(PageQuery):
    search = Text(
        validate=Length(1, 254, error="must be 1 to 254 characters long"),
        metadata=about("ali", "how the user name or the e-mail address begins, in any case"),
    )


class AdminUserLinks(Answer):
    self = String(metadata=link("/api/admin/users/1"))
    deactivation = String(metadata=link("/api/admin/users/1/deactivation"))
    sessions = String(metadata=link("/api/admin/users/1/sessions"))


def links_of(user: User) -> dict[str, str]:
    return {
        "self": path_to("admin.get_any_user", id=user.id),
        "deactivation": path_to("admin.deactivate_any_user", id=user.id),
        "sessions": path_to("admin.end_sessions_of_user", id=user.id),
    }


class AdminUserOut(UserName):
    email = String(metadata=about("alice@example.com"))
    email_verified = Boolean(attribute="has_verified_email", metadata=about(False))
    roles = List(String(), metadata=about(["admin"]))
    last_seen = DateTime(
        allow_none=True, metadata=about(A_TIME, "when the user registered, or last logged in")
    )
    password_changed_at = DateTime(allow_none=True, metadata=about(A_TIME, "null if unknown"))
    deactivated_at = DateTime(allow_none=True, metadata=about(None, "null for an active user"))
    links = Links(AdminUserLinks, links_of)


class AdminUserCollection(Answer):
    items = List(Nested(AdminUserOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")
