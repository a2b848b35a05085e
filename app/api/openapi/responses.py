"""The responses of an operation."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from apiflask.schemas import EmptySchema, FileSchema
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.routing import Rule

from app.api.openapi.requirements import takes_password_only
from app.http.errors import MESSAGES, Error

# The descriptions; the message of each example comes from app/http/errors.py.
_ERRORS = {
    400: "Invalid request; `message` says what to change, `errors` in which fields.",
    401: "Missing or invalid credentials.",
    403: "The credentials do not allow this.",
    404: "Not found.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    429: "Too many requests, or wrong passwords.",
    500: "The server failed.",
    503: "The database does not answer, or too many passwords are being checked.",
}
_CHALLENGE = {
    "description": "what was wrong with the credentials (RFC 6750, 3; RFC 7617, 2)",
    "schema": {"type": "string"},
    "example": 'Bearer realm="Microblog API"',
}
_RETRY_AFTER = {
    "description": "seconds to wait (RFC 9110, 10.2.3)",
    "schema": {"type": "integer", "minimum": 1},
    "required": True,
    "example": 5,
}
_RATE_LIMIT = {
    "description": "where the access token has a limit (draft-ietf-httpapi-ratelimit-headers)",
    "schema": {"type": "string"},
}
_ERROR_HEADERS = {
    401: {"WWW-Authenticate": _CHALLENGE | {"required": True}},
    403: {"WWW-Authenticate": _CHALLENGE},
    429: {
        "Retry-After": _RETRY_AFTER,
        "RateLimit": _RATE_LIMIT | {"example": '"default";r=0;t=30'},
        "RateLimit-Policy": _RATE_LIMIT | {"example": '"default";q=100;w=60'},
    },
    503: {"Retry-After": _RETRY_AFTER},
}


def by_id(*operations: str) -> dict[str, Any]:
    """Return links from a response to operations that take its `id` in their path."""
    parameters = {"id": "$response.body#/id"}
    return {name: {"operationId": name, "parameters": parameters} for name in operations}


def responses(
    rule: Rule, noted: dict[str, Any], describe: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """Return the `responses` of an operation: the one of its `output`, and errors.

    Args:
        rule: the route.
        noted: what is noted at its view.
        describe: gives the schema of a field.
    """
    success = noted["response"]
    status = success["status_code"]
    response = {"description": success["description"] or _reason(status)}
    if status != 204:
        body = content(_schema(success["schema"]), success["example"], success["examples"])
        response["content"] = {success["content_type"]: body}
    if success["headers"]:
        response["headers"] = {
            name: {"required": field.required, "schema": describe(field)}
            for name, field in success["headers"].fields.items()
        }
    if success["links"]:
        response["links"] = deepcopy(success["links"])  # apispec changes its arguments
    own = noted.get("responses") or {}  # of `doc(responses=...)`
    own = own if isinstance(own, dict) else dict.fromkeys(own)
    others = dict.fromkeys(_error_statuses(rule, noted)) | {int(key): own[key] for key in own}
    return {str(status): response} | {
        str(status): text if isinstance(text, dict) else _error_or_reference(status, text)
        for status, text in sorted(others.items())
    }


def _schema(schema: Any) -> Any:
    if isinstance(schema, EmptySchema):
        return {"type": "object"}
    if isinstance(schema, FileSchema):
        return {"type": schema.type, "format": schema.format}
    return schema


def content(schema: Any, example: Any, examples: Any) -> dict[str, Any]:
    """Return the description of a body, with its examples."""
    each = {"schema": schema, "example": example, "examples": examples}
    return {name: value for name, value in each.items() if value is not None}


def _error_statuses(rule: Rule, noted: dict[str, Any]) -> Iterator[int]:
    yield 400  # a token in the address or an unknown host, at least
    if "auth" in noted:
        yield 401
        if not takes_password_only(noted):
            yield 403
    if rule.arguments:
        yield 404
    if "body" in noted:
        yield 413
        if noted["content_type"] == "application/json":
            yield 415
    if "auth" in noted:
        yield 429
    yield from (500, 503)


def errors() -> dict[str, dict[str, Any]]:
    """Return the error responses of the components, by name."""
    return {_name(status): _error(status, text) for status, text in _ERRORS.items()}


def _error_or_reference(status: int, text: str | None) -> dict[str, Any]:
    if text is None and status in _ERRORS:
        return {"$ref": f"#/components/responses/{_name(status)}"}
    return _error(status, text or _reason(status))


def _error(status: int, text: str) -> dict[str, Any]:
    example: dict[str, Any] = {"error": _reason(status)}
    if status != 401:
        example["message"] = MESSAGES.get(status, text)
    return {
        "description": text,
        "headers": deepcopy(_ERROR_HEADERS.get(status, {})),
        "content": {"application/json": content(Error, example, None)},
    }


def _name(status: int) -> str:
    """Return the name of an error's response in the components."""
    return _reason(status).title().replace(" ", "")


def _reason(status: int) -> str:
    return HTTP_STATUS_CODES[status]
