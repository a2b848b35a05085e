"""The kinds of field, and how each is described in the OpenAPI document."""

import re
from collections.abc import Callable
from typing import Any

from apiflask import Schema
from apiflask.fields import Function, Integer, String
from email_validator import EmailNotValidError
from flask import current_app
from marshmallow import ValidationError
from marshmallow.validate import Range, Regexp

from app.models import SCOPES
from app.models.login import normal_email
from app.security.rate_limits import is_within

# Examples.
A_TIME = "2026-11-21T09:30:00.123456+00:00"  # RFC 3339
AN_ACCESS_TOKEN = "mba_6kQ0ZtWc4mXUwb1YhJr8sD2eLfVgP7nE3xaz"


def about(example: Any, description: str | None = None, **more: Any) -> dict[str, Any]:
    """Return the `metadata` of a field: its example, description and other OpenAPI keywords."""
    said = {} if description is None else {"description": description}
    return {"examples": [example], **said, **more}


def link(example: str | None) -> dict[str, Any]:
    """Return the `metadata` of a field that holds a URL."""
    return about(example, type="string", format="uri-reference")


class Links(Function):
    """The `_links` of an object, made by one function.

    Args:
        schema: describes them in the document.
        make: gives the links of the object, by name.
    """

    def __init__(self, schema: type[Schema], make: Callable[[Any], dict[str, str]]) -> None:
        super().__init__(make, data_key="_links")
        self.schema = schema


class Text(String):
    """A string that every database can store."""

    default_error_messages = {  # noqa: RUF012  a marshmallow declaration
        "required": "must be given",
        "null": "must be a string",
        "invalid": "must be a string",
        "unstorable": "must not contain NUL characters or lone surrogates",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not any(isinstance(validator, Regexp) for validator in self.validators):
            self.metadata = {"pattern": r"^[^\x00]*$", **self.metadata}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, *args, **kwargs)
        if re.search("[\0\ud800-\udfff]", text):
            raise self.make_error("unstorable")
        return text


# Control characters, line breaks, and characters without a width that hide or reorder
# others. The joiners U+200C and U+200D are allowed: some scripts and emojis need them.
_NOT_IN_A_LINE = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb"
)


class Line(Text):
    """One line of text, without line breaks, control characters and invisible characters."""

    def __init__(self, lowest: int, highest: int, **kwargs: Any) -> None:
        pattern = f"^[^{_NOT_IN_A_LINE}]{{{lowest},{highest}}}"
        length = f"must be {lowest} to {highest} characters long"
        text = f"{length}, without control or invisible characters"
        # `$` would accept a line break at the end; in JSON Schema it does not.
        super().__init__(validate=Regexp(pattern + r"\Z", error=text), **kwargs)
        self.metadata = {**self.metadata, "pattern": pattern + "$"}


class Email(Text):
    """An e-mail address (RFC 5321; ASCII before the @), loaded in its normal form."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metadata = {**about("alice@example.com", format="email"), **self.metadata}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, *args, **kwargs)
        try:
            return normal_email(text)
        except EmailNotValidError:
            raise ValidationError("must be a valid email address") from None


class NewPassword(Text):
    """A new password; `password_policy.refusal()` checks its strength."""


class Scope(Text):
    """Scopes separated by a space (RFC 6749, 3.3); loaded in the order of `SCOPES`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        one = "|".join(SCOPES)
        self.metadata = {**self.metadata, "pattern": f"^({one})( ({one}))*$"}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        names = super()._deserialize(value, *args, **kwargs).split(" ")
        if not set(names) <= set(SCOPES):
            raise ValidationError(f"must be one or more of: {' '.join(SCOPES)}")
        return " ".join(name for name in SCOPES if name in names)


class TokenText(Text):
    """A token, without what a file may have around it: a byte order mark, a line break."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        return super()._deserialize(value, *args, **kwargs).removeprefix("\ufeff").strip()


class Seconds(Integer):
    """A whole number of seconds: `60` or `60.0`, but not `"60"` or `true`."""

    def __init__(self, lowest: int, highest: int, **kwargs: Any) -> None:
        text = f"must be a whole number from {lowest} to {highest} (seconds)"
        super().__init__(
            validate=Range(lowest, highest, error=text),
            error_messages={"invalid": text, "null": text},
            **kwargs,
        )

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if type(value) not in {int, float} or value % 1:
            raise self.make_error("invalid")
        return super()._deserialize(value, *args, **kwargs)


class Rate(Text):
    """A number of requests per time, within `ACCESS_TOKEN_LIMIT`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metadata = {**self.metadata, "pattern": f"^{_RATE}$"}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        rate = super()._deserialize(value, *args, **kwargs)
        most = current_app.config["ACCESS_TOKEN_LIMIT"]
        if not re.fullmatch(_RATE, rate) or not is_within(rate, most):
            text = "must be a number per time, such as 100 per minute or 20 per 5 seconds"
            raise ValidationError(f"{text}, and at most {most}")
        return rate


# Some of what the package `limits` takes: bounded, and in one notation.
_RATE = r"[1-9][0-9]{0,8} per ([1-9][0-9]{0,2} )?(second|minute|hour|day)s?"


class PageNumber(Integer):
    """A number of a page, or of its items, in a query string; never refused, as in the tutorial.

    What is above `highest` counts as `highest`, below 1 as 1, and what is no number as `default`.
    """

    def __init__(self, default: int, highest: int, what: str) -> None:
        text = f"{what}; at most {highest}, and {default} for what is no number"
        said = about(default, text, type=["integer", "string"])  # any text is taken
        super().__init__(load_default=default, metadata=said)
        self._default, self._highest = default, highest

    def _deserialize(self, value: str, *_: Any, **__: Any) -> int:
        number = re.fullmatch(r"([+-]?)0*([0-9]+)", value.strip(), re.ASCII)
        if number is None:
            return self._default
        if number[1] == "-":
            return 1
        is_short = len(number[2]) <= len(str(self._highest))  # `int` refuses very long ones
        return min(max(1, int(number[2])), self._highest) if is_short else self._highest


class Count(Integer):
    """A whole number in a query string, in ASCII digits; `int()` would accept others."""

    def __init__(self, highest: int, **kwargs: Any) -> None:
        text = f"must be a whole number from 1 to {highest}"
        super().__init__(
            validate=Range(1, highest, error=text), error_messages={"invalid": text}, **kwargs
        )

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise self.make_error("invalid")
        return super()._deserialize(value, *args, **kwargs)
