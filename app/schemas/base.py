"""What the schemas of several resources share: bodies, collections and streams."""

from typing import Any

from apiflask import Schema
from apiflask.fields import Integer, String
from flask import url_for
from marshmallow import EXCLUDE

from app.fields import Count
from app.models import Page, Post


class Body(Schema):
    """A JSON object; what it holds beyond the fields is ignored."""

    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": "the body must be a JSON object"}  # noqa: RUF012  a marshmallow declaration


class Resource(Schema):
    """Whose `links` are made from the whole object."""

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        return obj if attr == "links" else super().get_attribute(obj, attr, default)


class PageQuery(Schema):
    page = Count(2**31 - 1, load_default=1)
    per_page = Count(100, load_default=10)


class PageMeta(Schema):
    page = Integer()
    per_page = Integer()
    total_pages = Integer()
    total_items = Integer()


class PageLinks(Schema):
    self = String()
    next = String()
    prev = String()


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
    before = Count(2**53)  # what JSON numbers are exact to
    per_page = Count(100, load_default=10)


class StreamMeta(Schema):
    per_page = Integer()


class StreamLinks(Schema):
    self = String()
    next = String()


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
