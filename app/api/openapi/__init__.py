"""The OpenAPI document, made from the routes that are served."""

from app.api.openapi.document import document, optional_body, path_of, view_of
from app.api.openapi.responses import by_id

__all__ = ["by_id", "document", "optional_body", "path_of", "view_of"]
