"""What a response says about the access token of its request.

    X-Token-Expires-In: 86400
    RateLimit-Policy: "default";q=100;w=60
    RateLimit: "default";r=99;t=60

The first if the text that was presented expires within a week. `Deprecation` (RFC 9745)
and `Sunset` (RFC 8594) would be about the resource. The other two if the token has a
limit (draft-ietf-httpapi-ratelimit-headers).
"""

from datetime import timedelta

from flask import Response, after_this_request, current_app

from app.security.rate_limits import Limit, charge_all, is_within

EXPIRY_ANNOUNCED = timedelta(days=7)  # before it


def announce_expiry(seconds: int | None) -> None:
    """Let the response say in how many seconds its token expires."""
    _add({"X-Token-Expires-In": str(seconds)})


def charge_request(token_id: int, rate: str) -> None:
    """Count a request against the limit of its access token, and let the response say so.

    Args:
        token_id: of the token, whichever of its texts was presented.
        rate: its limit; where `ACCESS_TOKEN_LIMIT` was lowered since, that counts instead, or
            both do if neither is within the other. The response is about the one of which
            less remains.

    Raises:
        LimitReachedError: the limit was reached before.
    """
    most = current_app.config["ACCESS_TOKEN_LIMIT"]
    if is_within(rate, most):
        rates = [rate]
    elif is_within(most, rate):
        rates = [most]
    else:
        rates = [rate, most]
    limits = [
        Limit("access token", each, token_id, counts="requests with this token") for each in rates
    ]
    try:
        charge_all(limits)
    finally:
        window = min((limit.window() for limit in limits), key=lambda one: one.remaining)
        _add(
            {
                "RateLimit-Policy": f'"default";q={window.amount};w={window.seconds}',
                "RateLimit": f'"default";r={window.remaining};t={window.seconds_left}',
            }
        )


def _add(headers: dict[str, str]) -> None:
    def add(response: Response) -> Response:
        response.headers.update(headers)
        return response

    after_this_request(add)
