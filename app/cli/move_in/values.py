"""Values of a tutorial database, which may have a form that its application has never written."""

import re
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.models.columns import as_utc

UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def as_it_is(table: sa.Table, name: str) -> Any:
    """Return a column as the driver reads it, or NULL if the table does not have it."""
    column = table.c.get(name)
    value: Any = sa.null() if column is None else sa.type_coerce(column, sa.types.NullType())
    return value.label(name)


def as_time(value: Any) -> datetime | None:
    """Return a time, which is in UTC if it names no zone; `None` for what is no time."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return as_utc(value) if isinstance(value, datetime) else None


def why_not(text: Any, longest: int) -> str | None:
    """Return why a text cannot be stored; `None` if it can."""
    if text is None or text == "":
        return "is empty"
    if not isinstance(text, str):
        return "is no text"
    if len(text) > longest:
        return f"is longer than {longest} characters"
    if UNSTORABLE.search(text):
        return "has a character that cannot be stored"
    return None
