"""What the schemas share: bodies, responses, pages."""

from typing import Any

from apiflask import Schema
from apiflask.fields import Integer, String
from flask import url_for
from marshmallow import EXCLUDE, RAISE
from marshmallow.fields import Field

from app.api.schemas.fields import PageNumber, about, link
from app.models import Page

# For `output(headers=...)`: where the created object is.
LOCATION: dict[str, Field[Any] | type] = {
    "Location": String(required=True, metadata=link("/api/users/1"))
}


class Body(Schema):
    """A JSON object in a request; unknown fields are ignored."""

    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": "the body must be a JSON object"}  # noqa: RUF012  a marshmallow declaration


class StrictBody(Body):
    """A JSON object in a request; unknown fields are refused, as one may be a misspelled limit."""

    class Meta(Body.Meta):
        unknown = RAISE

    error_messages = Body.error_messages | {"unknown": "there is no such field"}


class Answer(Schema):
    """A JSON object in a response; its fields are required unless their metadata say `optional`."""

    class Meta:
        unknown = EXCLUDE  # as clients should with fields they do not know

    def on_bind_field(self, field_name: str, field_obj: Field[Any]) -> None:  # noqa: ARG002  marshmallow's
        field_obj.required = not field_obj.metadata.get("optional", False)


class PageQuery(Schema):
    page = PageNumber(1, 2**31 - 1, "page number, from 1")
    per_page = PageNumber(10, 100, "items on a page")


class PageMeta(Answer):
    page = Integer(metadata=about(1))
    per_page = Integer(metadata=about(10))
    total_pages = Integer(metadata=about(1))
    total_items = Integer(metadata=about(1))


class PageLinks(Answer):
    self = String(metadata=link("/api/users?page=1&per_page=10"))
    next = String(allow_none=True, metadata=link(None))
    prev = String(allow_none=True, metadata=link(None))


def collection(page: Page, endpoint: str, **values: Any) -> dict[str, Any]:
    """Return a page in the form that a collection schema dumps.

    Args:
        page: the page.
        endpoint: of the route.
        values: for the variables of the route.
    """

    def url_of(number: int | None) -> str | None:
        if number is None:
            return None
        return url_for(endpoint, page=number, per_page=page.per_page, **values)

    return {
        "items": page.items,
        "meta": {
            "page": page.number,
            "per_page": page.per_page,
            "total_pages": page.pages,
            "total_items": page.total,
        },
        "links": {
            "self": url_of(page.number),
            "next": url_of(page.next_number),
            "prev": url_of(page.prev_number),
        },
    }
