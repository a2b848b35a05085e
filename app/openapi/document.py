"""The document as a whole: apispec describes what the decorators of the views name.

Those are the schemas that validate requests and write responses. What no view
says, because it is done for all, comes from the modules beside this one.
"""

import re
from collections.abc import Callable
from inspect import cleandoc
from itertools import chain, count
from typing import Any, cast

from apiflask import APIFlask
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from werkzeug.routing import Rule

from app import passwords
from app.auth import declared
from app.fields import NewPassword
from app.openapi.credentials import in_words, requirements, schemes
from app.openapi.responses import content, errors, responses

INTRODUCTION = """
Log in once, get an opaque token, take it back whenever you like.

1. **Register**: run `POST /api/users` below.
2. **Log in**: press *Authorize*, give the user name and the password, and run `POST /api/tokens`.
3. **Use the token**: paste it into *Authorize*, and run whatever you like. `DELETE /api/tokens`
   logs out.

Bodies are JSON, and so is every error: `message` says what to do about it, `errors` which field
is wrong. Times are in UTC, links relative to the server. Every answer has an `X-Request-Id`,
which the server's log has too.
"""

# Of a route: `<int:id>` has the groups "int" and "id", `<name>` has "" and "name".
_VARIABLE = re.compile(r"<(?:(\w+)(?:\(.*?\))?:)?(\w+)>")
# What a converter takes; any other takes a text.
_CONVERTERS: dict[str, dict[str, Any]] = {
    "int": {"type": "integer", "format": "int64", "minimum": 0},
    "float": {"type": "number"},
    "uuid": {"type": "string", "format": "uuid"},
}


def document(app: APIFlask) -> dict[str, Any]:
    """The description of every route that says by `output` what it answers with.

    Left out is what says `doc(hide=True)`, and blueprints with `enable_openapi=False`.
    """
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": INTRODUCTION.strip()},
    )
    converter = cast("Any", plugin.converter)
    converter.add_attribute_function(_length_of_password(app.config["PASSWORD_MIN_LENGTH"]))
    for name, response in errors().items():
        spec.components.response(name, response)
    tags: dict[str, dict[str, str]] = {}
    taken: set[str] = set()
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        noted = declared(view)
        blueprint = app.blueprints.get(rule.endpoint.rpartition(".")[0])
        if (
            "response" not in noted
            or noted.get("hide")
            or not getattr(blueprint, "enable_openapi", True)
        ):
            continue
        for scheme in schemes(noted):
            spec.components.security_schemes[scheme.name] = scheme.get_security_scheme()
        tag = _tag(blueprint)
        tags[tag["name"]] = tag
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            operation = {
                "operationId": _unused_name(rule, method, taken),
                "tags": noted.get("tags") or [tag["name"]],
                **_operation(rule, view, converter.field2property),
            }
            spec.path(path_of(rule), operations={method.lower(): operation})
    return {**spec.to_dict(), "tags": list(tags.values())}


def path_of(rule: Rule) -> str:
    """Its path in the document: `/users/{id}` of `/users/<int:id>`."""
    return _VARIABLE.sub(r"{\2}", rule.rule)


def _operation(
    rule: Rule, view: Callable[..., Any], describe: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    noted = declared(view)
    summary, _, description = (view.__doc__ or view.__name__).strip().partition("\n")
    description = noted.get("description") or cleandoc(description)
    operation = {
        "summary": noted.get("summary") or summary.rstrip("."),
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
        operation["requestBody"] = {"required": True, "content": dict.fromkeys(types, body)}
    if noted.get("deprecated"):
        operation["deprecated"] = True
    if noted.get("operation_id"):
        operation["operationId"] = noted["operation_id"]
    return operation


def _unused_name(rule: Rule, method: str, taken: set[str]) -> str:
    """An operation's name: that of its view, and more where another has that one."""
    view: str = rule.endpoint.rpartition(".")[2]
    whole = f"{method.lower()}_{rule.endpoint.replace('.', '_')}"
    names = chain([view, whole], (f"{whole}_{number}" for number in count(2)))
    unused = next(name for name in names if name not in taken)
    taken.add(unused)
    return unused


def _path_parameter(converter: str, name: str) -> dict[str, Any]:
    schema = _CONVERTERS.get(converter, {"type": "string"})
    return {"in": "path", "name": name, "required": True, "schema": schema}


def _tag(blueprint: Any) -> dict[str, str]:
    """The group of a blueprint's operations; `Others` without a blueprint."""
    if blueprint is None:
        return {"name": "Others"}
    tag = getattr(blueprint, "tag", None) or blueprint.name.title()
    return tag if isinstance(tag, dict) else {"name": tag}


def _length_of_password(lowest: int) -> Callable[..., dict[str, Any]]:
    """An attribute function, as apispec calls one for each field."""

    def length_of_password(_converter: Any, field: Any, **_: Any) -> dict[str, Any]:
        if not isinstance(field, NewPassword):
            return {}
        return {"format": "password", "minLength": lowest, "maxLength": passwords.MAX_LENGTH}

    return length_of_password
