"""What the schemas of several resources share: bodies, collections and streams."""

from typing import Any

from apiflask import Schema
from apiflask.fields import Integer, String
from flask import url_for
from marshmallow import EXCLUDE
from marshmallow.fields import Field

from app.fields import Count, about, link
from app.models import Page, Post

# For `output(headers=...)`: where that is which was created.
LOCATION: dict[str, Field[Any] | type] = {
    "Location": String(required=True, metadata=link("/api/users/1"))
}


class Body(Schema):
    """A JSON object; what it holds beyond the fields is ignored."""

    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": "the body must be a JSON object"}  # noqa: RUF012  a marshmallow declaration


class Answer(Schema):
    """What is written: each of its fields, but for those whose metadata says `optional`."""

    class Meta:
        unknown = EXCLUDE  # as clients should do with fields that they do not know

    def on_bind_field(self, field_name: str, field_obj: Field[Any]) -> None:  # noqa: ARG002  marshmallow's
        field_obj.required = not field_obj.metadata.get("optional", False)


class Resource(Answer):
    """Of an object of a model; its `links` are made from the whole of it."""

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        # marshmallow's own also reads dictionaries and dotted names, which takes longer.
        return obj if attr == "links" else getattr(obj, attr, default)


class PageQuery(Schema):
    page = Count(2**31 - 1, load_default=1, metadata=about(1, "number of the page, from 1"))
    per_page = Count(100, load_default=10, metadata=about(10, "how many on a page"))


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
    """A page in the form that a collection schema writes.

    Args:
        page: of the collection.
        endpoint: of the route that answers with it.
        values: of the route's variables.
    """

    def link(number: int | None) -> str | None:
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
            "self": link(page.number),
            "next": link(page.next_number),
            "prev": link(page.prev_number),
        },
    }


class StreamQuery(Schema):
    # At most what JSON numbers are exact to.
    before = Count(2**53, metadata=about(42, "only posts with a smaller id than this"))
    per_page = Count(100, load_default=10, metadata=about(10, "how many at once"))


class StreamMeta(Answer):
    per_page = Integer(metadata=about(10))


class StreamLinks(Answer):
    self = String(metadata=link("/api/posts?per_page=10"))
    next = String(allow_none=True, metadata=link("/api/posts?per_page=10&before=32"))


def stream(
    posts: list[Post], query: dict[str, Any], endpoint: str, **values: Any
) -> dict[str, Any]:
    """The posts from a position on, in the form that `PostStream` writes.

    Args:
        posts: newest first, and one more than fits where there are more.
        query: as `StreamQuery` has read it.
        endpoint: of the route that answers with it.
        values: of the route's variables.
    """
    per_page = query["per_page"]
    items = posts[:per_page]
    more = len(posts) > per_page
    return {
        "items": items,
        "meta": {"per_page": per_page},
        "links": {
            "self": url_for(endpoint, **query, **values),
            "next": url_for(endpoint, **query | {"before": items[-1].id}, **values)
            if more
            else None,
        },
    }
