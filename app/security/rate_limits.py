"""Rate limits: a number of events per key in a time window.

    Limit("notes", "10 per minute", user.id, counts="notes").charge()

Where the limit is reached, `charge` raises `LimitReachedError`, which is answered
with 429 and `Retry-After`. A limit counts in a fixed window that begins with the
first charge. The counters are in Redis if `REDIS_URL` is set, else in this process.
"""

import hashlib
import ipaddress
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import limits
import redis
from flask import Flask, current_app
from limits.storage import RedisStorage, Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.clock import monotonic_now, unix_now

R = TypeVar("R")

REDIS_TIMEOUT_SECONDS = 0.5
REDIS_PAUSE_SECONDS = 5  # until Redis is asked again after it did not answer

_log = logging.getLogger(__name__)


class LimitReachedError(Exception):
    """A limit is reached.

    Attributes:
        limit: its name.
        counts: what the limit counts, as in "too many wrong passwords".
        retry_after_seconds: until the window ends; at least 1.
    """

    def __init__(self, limit: str, counts: str, retry_after_seconds: int) -> None:
        super().__init__(f"too many {counts}; wait {retry_after_seconds} s")
        self.limit = limit
        self.counts = counts
        self.retry_after_seconds = retry_after_seconds


def init_app(app: Flask) -> None:
    app.extensions["rate_limits"] = Counters(app.config["REDIS_URL"])


class Window(NamedTuple):
    """How much of a limit is left.

    Attributes:
        amount: that the limit allows in a window.
        seconds: that a window takes.
        remaining: of the amount.
        seconds_left: until the window ends; the whole window where none has begun.
    """

    amount: int
    seconds: int
    remaining: int
    seconds_left: int


class Limit:
    """At most so many in a time, for each key.

    Args:
        name: of the limit; limits of different names count separately.
        rate: as in "20 per 5 minutes".
        key: who is counted; only a digest is stored.
        counts: what is counted, in the plural, for the error's text.
    """

    def __init__(self, name: str, rate: str, *key: int | str, counts: str = "requests") -> None:
        self._name = name
        self._rate = limits.parse(rate)
        # A digest: the key may be a password that was typed into the field of the name.
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
        self._key = (name, digest)
        self._counts = counts
        self._counters: Counters = current_app.extensions["rate_limits"]
        self._charged: FixedWindowRateLimiter | None = None  # where the charge was counted

    def test(self) -> None:
        """Check the limit without charging it.

        Raises:
            LimitReachedError: a charge would be refused.
        """
        seconds = self.seconds_to_wait()
        if seconds:
            raise LimitReachedError(self._name, self._counts, seconds)

    def charge(self) -> None:
        """Count one.

        Raises:
            LimitReachedError: the limit was reached before; nothing was counted.
        """
        if not self._counters.run(self._hit):
            raise LimitReachedError(self._name, self._counts, max(1, self.seconds_to_wait()))

    def refund(self) -> None:
        """Take back what `charge` has counted, unless its window has ended."""
        if self._charged is not None:
            with suppress(redis.RedisError):  # then the charge stays
                self._take_back(self._charged)
            self._charged = None

    def seconds_to_wait(self) -> int:
        """Return the seconds until a charge will be accepted; 0 if it is now."""
        return self._counters.run(self._seconds_to_wait)

    def window(self) -> Window:
        """Return what is left of the limit."""
        return self._counters.run(self._window)

    def _window(self, counter: FixedWindowRateLimiter) -> Window:
        amount, seconds = self._rate.amount, self._rate.get_expiry()
        stats = counter.get_window_stats(self._rate, *self._key)
        is_open = stats.remaining < amount
        left = min(_seconds_until(stats.reset_time), seconds) if is_open else seconds
        return Window(amount, seconds, stats.remaining, left)

    def _hit(self, counter: FixedWindowRateLimiter) -> bool:
        if not counter.hit(self._rate, *self._key):
            self._take_back(counter)
            return False
        self._charged = counter
        return True

    def _take_back(self, counter: FixedWindowRateLimiter) -> None:
        if counter.get_window_stats(self._rate, *self._key).remaining < self._rate.amount:
            counter.hit(self._rate, *self._key, cost=-1)

    def _seconds_to_wait(self, counter: FixedWindowRateLimiter) -> int:
        if counter.test(self._rate, *self._key):
            return 0
        return _seconds_until(counter.get_window_stats(self._rate, *self._key).reset_time)


def _seconds_until(reset_time: float) -> int:
    """Return at least 1: Redis rounds the time that is left, in the last half second to 0."""
    return max(1, math.ceil(reset_time - unix_now()))


def charge_all(several: Sequence[Limit]) -> None:
    """Charge each limit, or none of them.

    Raises:
        LimitReachedError: one was reached; nothing was counted.
    """
    charged: list[Limit] = []
    try:
        for limit in several:
            limit.charge()
            charged.append(limit)
    except LimitReachedError:
        refund_all(charged)
        raise


def refund_all(several: Sequence[Limit]) -> None:
    for limit in several:
        limit.refund()


@lru_cache(1000)
def is_within(rate: str, most: str) -> bool:
    """Return whether a rate never allows more than another one, in any time.

    "1000 per hour" is not within "100 per minute": all of them could come in one minute.
    """
    one, other = limits.parse(rate), limits.parse(most)
    is_slower = one.amount * other.get_expiry() <= other.amount * one.get_expiry()
    return one.amount <= other.amount and is_slower


def source_of(address: str | None) -> str:
    """Return what a client at `address` is counted as: an IPv4 address or an IPv6 /64 network.

    One customer of a provider is given a /64 network. All addresses that cannot be read
    are one source, "unknown".
    """
    ip = parse_address(address or "")
    if ip is None:
        return "unknown"
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip), 64), strict=False))


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address in `text`, to which a proxy may have appended the port, or `None`."""
    with suppress(ValueError):
        return ipaddress.ip_address(text)
    with suppress(ValueError):  # perhaps with a port
        return ipaddress.ip_address(urlsplit(f"//{text}").hostname or "")
    return None


class ProcessStorage(Storage):
    """Counters in the memory of this process, for fixed windows.

    The `MemoryStorage` of `limits` starts a thread for each count that walks over
    all keys, which a client with many addresses can make expensive. Here expired
    keys are removed when the number of keys has doubled.
    """

    STORAGE_SCHEME = ["process"]  # noqa: RUF012  as `limits` declares it
    base_exceptions = ValueError

    def __init__(self) -> None:
        super().__init__()
        # Count, and when the window ends, on the monotonic clock.
        self._windows: dict[str, tuple[int, float]] = {}
        self._sweep_at = 1024  # keys
        self._lock = Lock()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        with self._lock:
            now = monotonic_now()
            count, end = self._windows.get(key, (0, 0.0))
            if end <= now or (count == 0 and amount > 0):
                count, end = 0, now + expiry
                self._sweep(now)
            self._windows[key] = count + amount, end
            return count + amount

    def _sweep(self, now: float) -> None:
        if len(self._windows) >= self._sweep_at:
            live = {key: window for key, window in self._windows.items() if window[1] > now}
            self._windows = live
            self._sweep_at = max(1024, 2 * len(live))

    def get(self, key: str) -> int:
        count, end = self._windows.get(key, (0, 0.0))
        return count if end > monotonic_now() else 0

    def get_expiry(self, key: str) -> float:
        """Return when the window ends, in seconds since 1970, as `limits` wants it."""
        now = monotonic_now()
        return unix_now() + self._windows.get(key, (0, now))[1] - now

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def reset(self) -> None:
        self._windows.clear()

    def check(self) -> bool:
        return True


class Counters:
    """Redis, if it is configured and answers; else the counters of this process."""

    def __init__(self, redis_url: str | None) -> None:
        self._own = FixedWindowRateLimiter(ProcessStorage())
        self._shared = None
        self._is_silent = False
        self._ask_again_at = 0.0  # on the monotonic clock
        if redis_url is not None:
            options: dict[str, Any] = {
                "socket_timeout": REDIS_TIMEOUT_SECONDS,
                "socket_connect_timeout": REDIS_TIMEOUT_SECONDS,
                "retry": Retry(NoBackoff(), 0),
            }
            make: Any = RedisStorage
            if redis_url.startswith("redis+sentinel:"):
                options |= {"sentinel_kwargs": dict(options), "use_replicas": False}
                make = storage_from_string  # a RedisSentinelStorage
            storage = make(redis_url, key_prefix="microblog", **options)
            self._shared = FixedWindowRateLimiter(storage)

    def run(self, ask: Callable[[FixedWindowRateLimiter], R]) -> R:
        """Return the result of `ask` with the counters of Redis or, where that fails, our own."""
        if self._shared is not None and monotonic_now() >= self._ask_again_at:
            if self._is_silent:  # one request asks; the others do not wait with it
                self._ask_again_at = monotonic_now() + REDIS_PAUSE_SECONDS
            try:
                answer = ask(self._shared)
            except redis.RedisError as error:
                self._pause(error)
            else:
                self._is_silent = False
                return answer
        return ask(self._own)

    def is_shared(self) -> bool | None:
        """Return whether Redis answers; `None` if it is not configured."""
        if self._shared is None:
            return None
        self.run(lambda counter: counter.storage.get("health"))
        return not self._is_silent

    def _pause(self, error: redis.RedisError) -> None:
        self._ask_again_at = monotonic_now() + REDIS_PAUSE_SECONDS
        if not self._is_silent:
            self._is_silent = True
            _log.warning("REDIS_URL: Redis does not answer; each process counts alone: %s", error)
