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
    readiness = current_app.extensions["readiness"]
    reason = readiness.reason_against()
    if reason is not None:
        abort(503, reason)
    # Without Redis each process counts alone, and serves.
    answer = {"status": "ready"}
    if readiness.is_redis_there is not None:
        answer["redis"] = "answers" if readiness.is_redis_there else "does not answer"
    return answer
