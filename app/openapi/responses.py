"""What a route answers, as the document says it."""

from collections.abc import Callable, Iterator
from typing import Any

from apiflask.schemas import EmptySchema
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.routing import Rule

from app.auth import basic_auth
from app.challenges import REALM
from app.errors import MESSAGES, Error

_SUCCESSES = {
    200: "Here it is.",
    201: "It is made.",
    204: "Done.",
}

# Messages are examples from app/errors.py.
_ERRORS = {
    400: "The request is wrong; `message` says what to change, `errors` in which field.",
    401: "There are no credentials, or none that do.",
    403: "The credentials are good, but not for this.",
    404: "There is no such thing.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    429: "There were too many wrong passwords.",
    500: "We have made a mistake.",
    503: "The database is away, or too many passwords are being checked.",
}
_EXAMPLE_OF_400 = {
    "message": "must include username, email and password fields",
    "errors": {"email": ["must include username, email and password fields"]},
}
_CHALLENGE = {
    "description": "what was wrong with the credentials (RFC 6750, 3; RFC 7617, 2)",
    "schema": {"type": "string"},
    "example": f'Bearer realm="{REALM}"',
}
_RETRY_AFTER = {
    "description": "seconds to wait (RFC 9110, 10.2.3)",
    "schema": {"type": "integer", "minimum": 1},
    "required": True,
    "example": 5,
}
_ERROR_HEADERS = {
    401: {"WWW-Authenticate": _CHALLENGE | {"required": True}},
    403: {"WWW-Authenticate": _CHALLENGE},
    429: {"Retry-After": _RETRY_AFTER},
    503: {"Retry-After": _RETRY_AFTER},
}


def by_id(*operations: str) -> dict[str, Any]:
    """Links from an answer to operations that take its `id` in their path."""
    parameters = {"id": "$response.body#/id"}
    return {name: {"operationId": name, "parameters": parameters} for name in operations}


def responses(
    rule: Rule, said: dict[str, Any], describe: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    success = said["response"]
    status = success["status_code"]
    response = {"description": success["description"] or _SUCCESSES[status]}
    if status != 204:
        schema = success["schema"]
        content = {"schema": {"type": "object"} if isinstance(schema, EmptySchema) else schema}
        response["content"] = {success["content_type"]: content}
    if success["headers"]:
        response["headers"] = {
            name: {
                "required": field.required,
                "schema": describe(field),
            }
            for name, field in success["headers"].fields.items()
        }
    if success["links"]:
        response["links"] = success["links"]
    errors = {
        str(status): {"$ref": f"#/components/responses/{_name(status)}"}
        for status in _error_statuses(rule, said)
    }
    return {str(status): response} | errors


def _error_statuses(rule: Rule, said: dict[str, Any]) -> Iterator[int]:
    yield 400  # a token in the address, or a host that is not ours, at least
    if "auth" in said:
        yield 401
        if said["auth"] is not basic_auth:
            yield 403
    if rule.arguments:
        yield 404
    if "body" in said:
        yield 413
        if said["content_type"] == "application/json":
            yield 415
    if "auth" in said:
        yield 429
    yield from (500, 503)


def errors() -> dict[str, dict[str, Any]]:
    """The responses that the components have, by name."""
    return {_name(status): _error(status, text) for status, text in _ERRORS.items()}


def _error(status: int, text: str) -> dict[str, Any]:
    """The response with that status, for the components."""
    example: dict[str, Any] = {"error": HTTP_STATUS_CODES[status]}
    if status == 400:
        example |= _EXAMPLE_OF_400
    elif status != 401:
        example["message"] = MESSAGES[status]
    return {
        "description": text,
        "headers": _ERROR_HEADERS.get(status, {}),
        "content": {"application/json": {"schema": Error, "example": example}},
    }


def _name(status: int) -> str:
    """Of an error's response, in the components."""
    return HTTP_STATUS_CODES[status].title().replace(" ", "")
