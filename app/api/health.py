"""`/livez` and `/readyz`, for whoever starts servers and distributes requests."""

from typing import Any

from apiflask import APIBlueprint, abort
from flask import current_app

from app.auth import public

bp = APIBlueprint("health", __name__, enable_openapi=False)


@bp.after_request
def forbid_storing(response: Any) -> Any:
    response.cache_control.no_store = True
    return response


@bp.get("/livez")
@public
def get_liveness() -> Any:
    return {"status": "alive"}


@bp.get("/readyz")
@public
def get_readiness() -> Any:
    reason = current_app.extensions["readiness"].reason_against()
    if reason is not None:
        abort(503, reason)
    # Without Redis each process counts alone, and serves.
    is_shared = current_app.extensions["rate_limits"].is_shared()
    redis = {} if is_shared is None else {"redis": "answers" if is_shared else "does not answer"}
    return {"status": "ready", **redis}
