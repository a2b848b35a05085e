"""Access tokens, in requests and responses."""

from apiflask.fields import DateTime, Integer, List, Nested, String

from app.api.schemas.base import Answer, PageLinks, PageMeta, StrictBody
from app.api.schemas.fields import (
    A_TIME,
    AN_ACCESS_TOKEN,
    Line,
    Links,
    Rate,
    Scope,
    Seconds,
    about,
    link,
)
from app.http.headers import path_to
from app.models import AccessToken


class NewAccessToken(StrictBody):
    name = Line(
        1,
        64,
        required=True,
        metadata=about("phone", "unique among your live tokens"),
    )
    scope = Scope(required=True, metadata=about("read write"))
    expires_in = Seconds(
        60,
        365 * 24 * 3600,
        load_default=30 * 24 * 3600,
        metadata=about(30 * 24 * 3600, "lifetime in seconds"),
    )
    limit = Rate(
        load_default=None,
        allow_none=True,
        metadata=about("100 per minute", "of its requests; then 429; null for none"),
    )


class Rotation(StrictBody):
    overlap_seconds = Seconds(
        0,
        7 * 24 * 3600,
        load_default=0,
        metadata=about(3600, "how long the old text still works"),
    )


class AccessTokenLinks(Answer):
    self = String(metadata=link("/api/access-tokens/1"))


def _links(token: AccessToken) -> dict[str, str]:
    return {"self": path_to("access_tokens.get_access_token", id=token.id)}


class AccessTokenOut(Answer):
    id = Integer(metadata=about(1))
    name = String(metadata=about("phone"))
    scope = String(metadata=about("read write"))
    limit = String(
        attribute="rate_limit",
        allow_none=True,
        metadata=about("100 per minute", "of its requests; null for none"),
    )
    expires_in = Integer(
        attribute="seconds_left", metadata=about(30 * 24 * 3600, "seconds until expiry")
    )
    created = DateTime(metadata=about(A_TIME))
    last_used = DateTime(allow_none=True, metadata=about(A_TIME, "to the hour; null if never"))
    previous_expires_in = Integer(
        attribute="previous_seconds_left",
        allow_none=True,
        metadata=about(None, "seconds until the text before the last rotation expires"),
    )
    previous_last_used = DateTime(
        allow_none=True,
        metadata=about(None, "of that text since the rotation; to the hour; null if not used"),
    )
    links = Links(AccessTokenLinks, _links)


class NewAccessTokenOut(AccessTokenOut):
    """The only response that contains the token itself."""

    token = String(attribute="text", metadata=about(AN_ACCESS_TOKEN, "shown only in this response"))


class AccessTokenCollection(Answer):
    items = List(Nested(AccessTokenOut))
    meta = Nested(PageMeta, data_key="_meta")
    links = Nested(PageLinks, data_key="_links")
