"""Check every response in the tests against the OpenAPI document."""

from functools import cached_property

from flask.testing import FlaskClient
from jsonschema import Draft202012Validator, FormatChecker
from werkzeug.exceptions import HTTPException

from app.api.openapi import document, path_of, view_of


class Contract:
    def __init__(self, app):
        self.app = app

    @cached_property
    def document(self):
        said = document(self.app)
        for schema in said["components"]["schemas"].values():
            # Clients must accept unknown keys, but every key of ours must be documented.
            schema["additionalProperties"] = False
        return said

    def check(self, response):
        """Check a response against its operation in the document.

        Ignore unknown paths. Fail if a route with a response schema is not in the document.
        """
        request = response.request
        if request.environ["PATH_INFO"].startswith("//"):  # which `request.path` does not show
            return
        adapter = self.app.url_map.bind("")
        try:
            rule, _ = adapter.match(request.path, request.method, return_rule=True)
        except HTTPException:
            return
        path = path_of(rule)
        operation = self.document["paths"].get(path, {}).get(request.method.lower())
        if operation is None:
            _, noted = view_of(self.app, rule, request.method)
            described = "response" in noted and request.method not in {"HEAD", "OPTIONS"}
            assert not described, f"{request.method} {path} is not in the document"
            return
        what = f"{request.method} {path} answers {response.status_code}"
        said = operation["responses"].get(str(response.status_code))
        assert said is not None, f"{what}, which is not in the document"
        said = self.resolve(said)
        for name, header in said.get("headers", {}).items():
            assert name in response.headers or not header.get("required"), f"{what} without {name}"
        if "content" not in said:
            assert response.data == b"", f"{what} with a body"
            return
        schema = said["content"][response.mimetype]["schema"]
        bundle = {"components": self.document["components"], **schema}
        validator = Draft202012Validator(bundle, format_checker=FormatChecker())
        for error in validator.iter_errors(response.json):
            raise AssertionError(f"{what}: {error.json_path} {error.message}")

    def resolve(self, said):
        if "$ref" in said:
            return self.document["components"]["responses"][said["$ref"].rpartition("/")[2]]
        return said


class ContractClient(FlaskClient):
    def open(self, *args, **kwargs):
        response = super().open(*args, **kwargs)
        contract = self.application.extensions.setdefault("contract", Contract(self.application))
        contract.check(response)
        return response
