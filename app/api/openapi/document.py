"""The whole document: apispec describes the schemas that the decorators of the views name.

What is the same for all routes comes from the modules beside this one.
"""

import re
from collections.abc import Callable, Iterator
from inspect import cleandoc
from itertools import chain, count
from typing import Any, cast

from apiflask import APIFlask, Schema
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from werkzeug.routing import Rule

from app.api.openapi.requirements import in_words, requirements, security_schemes
from app.api.openapi.responses import content, errors, responses
from app.api.schemas.fields import Links, NewPassword
from app.auth import declared, methods_of
from app.auth.access import View, note
from app.security import password_policy

INTRODUCTION = """
Log in once, get an opaque token, take it back whenever you like.

1. **Register**: run `POST /api/users` below.
2. **Log in**: press *Authorize*, enter user name and password, and run `POST /api/tokens`.
3. **Use the token**: paste it into *Authorize*, and run any operation. `DELETE /api/tokens`
   logs out.

Bodies are JSON, errors too: `message` says what to do, `errors` names the rejected fields.
Times are in UTC, links are relative to the server. Every response has an `X-Request-Id`,
which is also in the server's log. With an access token it may have `RateLimit` and
`RateLimit-Policy`, and `X-Token-Expires-In` (seconds) in the last week of the token.
"""

CONTACT = {"name": "the Microblog API authors"}
LICENSE = {"name": "MIT", "identifier": "MIT"}

# Of a route: `<int:id>` has the groups "int" and "id", `<name>` has "" and "name".
_VARIABLE = re.compile(r"<(?:(\w+)(?:\(.*?\))?:)?(\w+)>")
# What a converter accepts; others accept any text.
_CONVERTERS: dict[str, dict[str, Any]] = {
    "int": {"type": "integer", "format": "int64", "minimum": 0},
    "float": {"type": "number"},
    "uuid": {"type": "string", "format": "uuid"},
}


def document(app: APIFlask) -> dict[str, Any]:
    """Return the description of every route that has `output`.

    Except with `doc(hide=True)`, or in a blueprint with `enable_openapi=False`.
    """
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": INTRODUCTION.strip(), "contact": CONTACT, "license": LICENSE},
    )
    converter = cast("Any", plugin.converter)
    converter.add_attribute_function(_length_of_password(app.config["PASSWORD_MIN_LENGTH"]))
    converter.add_attribute_function(_schema_of_links)
    for name, response in errors().items():
        spec.components.response(name, response)
    tags: dict[str, dict[str, str]] = {}
    taken: set[str] = set()
    for rule, method in _operations(app):
        view, noted = view_of(app, rule, method)
        blueprint = app.blueprints.get(rule.endpoint.rpartition(".")[0])
        if (
            "response" not in noted
            or noted.get("hide")
            or not getattr(blueprint, "enable_openapi", True)
        ):
            continue
        for scheme in security_schemes(noted):
            spec.components.security_schemes[scheme.name] = scheme.get_security_scheme()
        tag = _tag(blueprint)
        tags[tag["name"]] = tag
        operation = {
            "operationId": _unused_name(rule, view, method, taken),
            "tags": noted.get("tags") or [tag["name"]],
            **_operation(rule, view, noted, converter.field2property),
        }
        spec.path(path_of(rule), operations={method.lower(): operation})
    return {**spec.to_dict(), "tags": list(tags.values())}


def optional_body(schema: type[Schema]) -> Callable[[View], View]:
    """Describe the body of a view that takes JSON or nothing, and reads it by itself."""

    def decorate(view: View) -> View:
        body = {"body": schema(), "body_example": None, "body_examples": None}
        note(view, **body, content_type="application/json", body_is_optional=True)
        return view

    return decorate


def _operations(app: APIFlask) -> Iterator[tuple[Rule, str]]:
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield rule, method


def view_of(app: APIFlask, rule: Rule, method: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the view function of a route, and what is noted at it.

    In a class-based view that is the method; notes at the class count for all methods.
    """
    view = app.view_functions[rule.endpoint]
    function = methods_of(view).get(method, view)
    return function, {**declared(view), **declared(function)}


def path_of(rule: Rule) -> str:
    """Return its path in the document: `/users/{id}` for `/users/<int:id>`."""
    return _VARIABLE.sub(r"{\2}", rule.rule)


def _operation(
    rule: Rule,
    view: Callable[..., Any],
    noted: dict[str, Any],
    describe: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    summary, _, description = (view.__doc__ or view.__name__).strip().partition("\n")
    description = noted.get("description") or cleandoc(description)
    operation = {
        "summary": (noted.get("summary") or summary).rstrip("."),
        "description": f"{description}\n\n{in_words(noted)}".strip(),
        "security": list(requirements(noted)),
        "parameters": [
            *(_path_parameter(*variable) for variable in _VARIABLE.findall(rule.rule)),
            *({"in": place, "schema": schema} for schema, place in noted.get("args", [])),
        ],
        "responses": responses(rule, noted, describe),
        **(noted.get("extensions") or {}),
    }
    if "body" in noted:
        body = content(noted["body"], noted["body_example"], noted["body_examples"])
        types = noted["content_type"]
        types = types if isinstance(types, list) else [types]
        is_required = not noted.get("body_is_optional")
        operation["requestBody"] = {
            "required": is_required,
            "content": dict.fromkeys(types, body),
        }
    if noted.get("deprecated"):
        operation["deprecated"] = True
    if noted.get("operation_id"):
        operation["operationId"] = noted["operation_id"]
    return operation


def _unused_name(rule: Rule, view: Callable[..., Any], method: str, taken: set[str]) -> str:
    """Return the name of an operation: that of its view, or a longer one if that is taken."""
    endpoint: str = rule.endpoint.rpartition(".")[2]
    whole = f"{method.lower()}_{rule.endpoint.replace('.', '_')}"
    is_method_of_class = view.__name__ == method.lower()
    names = chain(
        [whole] if is_method_of_class else [endpoint, whole],
        (f"{whole}_{number}" for number in count(2)),
    )
    unused = next(name for name in names if name not in taken)
    taken.add(unused)
    return unused


def _path_parameter(converter: str, name: str) -> dict[str, Any]:
    schema = _CONVERTERS.get(converter, {"type": "string"})
    return {"in": "path", "name": name, "required": True, "schema": schema}


def _tag(blueprint: Any) -> dict[str, str]:
    """Return the group of a blueprint's operations; `Others` without a blueprint."""
    if blueprint is None:
        return {"name": "Others"}
    tag = getattr(blueprint, "tag", None) or blueprint.name.title()
    return tag if isinstance(tag, dict) else {"name": tag}


def _length_of_password(lowest: int) -> Callable[..., dict[str, Any]]:
    """Return an attribute function; apispec calls it for each field."""

    def length_of_password(_converter: Any, field: Any, **_: Any) -> dict[str, Any]:
        if not isinstance(field, NewPassword):
            return {}
        return {"format": "password", "minLength": lowest, "maxLength": password_policy.MAX_LENGTH}

    return length_of_password


def _schema_of_links(converter: Any, field: Any, **_: Any) -> dict[str, Any]:
    if not isinstance(field, Links):
        return {}
    reference: dict[str, Any] = converter.resolve_nested_schema(field.schema)
    return reference
