"""The OpenAPI document, made from the routes that are served."""

from app.openapi.document import document
from app.openapi.responses import by_id

__all__ = ["by_id", "document"]
