"""The OpenAPI document, made from the routes that are served."""

from app.openapi.document import document, path_of
from app.openapi.responses import by_id

__all__ = ["by_id", "document", "path_of"]
