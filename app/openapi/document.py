"""The document as a whole: apispec describes what the decorators of the views name.

Those are the schemas that validate requests and write responses. What no view
says, because it is done for all, comes from the modules beside this one.
"""

import re
from collections.abc import Callable
from inspect import cleandoc
from typing import Any, cast

from apiflask import APIFlask
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from werkzeug.routing import Rule

from app import passwords
from app.auth import declared
from app.openapi.credentials import SCHEMES, requirements, who
from app.openapi.responses import errors, responses

INTRODUCTION = """
Log in once, get an opaque token, take it back whenever you like.

1. **Register**: run `POST /api/users` below.
2. **Log in**: press *Authorize*, give the user name and the password, and run `POST /api/tokens`.
3. **Use the token**: paste it into *Authorize*, and run whatever you like. `DELETE /api/tokens`
   logs out.

Bodies are JSON, and so is every error, which says what to do about it. Times are in UTC;
the links in an answer are relative to the server.
"""

# Of a route: `<int:id>` has the groups "int" and "id", `<name>` has "" and "name".
_VARIABLE = re.compile(r"<(?:(\w+)(?:\(.*?\))?:)?(\w+)>")


def document(app: APIFlask) -> dict[str, Any]:
    """The description of every route that says what it answers with (`output`)."""
    marshmallow = MarshmallowPlugin()
    spec = APISpec(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        plugins=[marshmallow],
        info={"description": INTRODUCTION.strip()},
        tags=[_tag(bp) for bp in app.blueprints.values() if getattr(bp, "enable_openapi", True)],
    )
    describe = cast("Any", marshmallow.converter).field2property
    for name, scheme in SCHEMES.items():
        spec.components.security_scheme(name, scheme)
    for name, response in errors().items():
        spec.components.response(name, response)
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if "response" in declared(view) and not declared(view).get("hide"):
            path = _VARIABLE.sub(r"{\2}", rule.rule)
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                operation = _operation(app, rule, view, describe)
                spec.path(path, operations={method.lower(): operation})
    for schema in spec.components.schemas.values():
        for field in schema.get("properties", {}).values():
            if field.get("format") == "password":  # that is to be
                field["minLength"] = app.config["PASSWORD_MIN_LENGTH"]
                field["maxLength"] = passwords.MAX_LENGTH
    return spec.to_dict()


def _operation(
    app: APIFlask, rule: Rule, view: Callable[..., Any], describe: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    said = declared(view)
    summary, _, description = (view.__doc__ or view.__name__).strip().partition("\n")
    description = said.get("description") or cleandoc(description)
    blueprint, _, name = rule.endpoint.rpartition(".")
    operation = {
        "operationId": name,
        "summary": said.get("summary") or summary.rstrip("."),
        "description": f"{description}\n\n{who(said)}".strip(),
        "tags": said.get("tags") or [_tag(app.blueprints[blueprint])["name"]],
        "security": list(requirements(said)),
        "parameters": [
            *(_path_parameter(*found) for found in _VARIABLE.findall(rule.rule)),
            *({"in": place, "schema": schema} for schema, place in said.get("args", [])),
        ],
        "responses": responses(rule, said, describe),
    }
    if "body" in said:
        content = {said["content_type"]: {"schema": said["body"]}}
        operation["requestBody"] = {"required": True, "content": content}
    if said.get("deprecated"):
        operation["deprecated"] = True
    return operation


def _path_parameter(converter: str, name: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if converter == "int":
        schema = {"type": "integer", "format": "int64", "minimum": 1}
    return {"in": "path", "name": name, "required": True, "schema": schema}


def _tag(blueprint: Any) -> dict[str, str]:
    tag = getattr(blueprint, "tag", None) or blueprint.name.title()
    return tag if isinstance(tag, dict) else {"name": tag}
