"""Where wrong passwords are counted: in Redis, or in the memory of this process."""

import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

import redis
from limits.storage import RedisStorage, Storage
from limits.strategies import FixedWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

R = TypeVar("R")

REDIS_SECONDS = 0.5  # that Redis is given to answer
PAUSE_SECONDS = 5  # before Redis is asked again when it did not

_log = logging.getLogger(__name__)


class ProcessStorage(Storage):
    """Counters of this process, for a strategy with fixed windows.

    The `MemoryStorage` of `limits` starts a thread for each count that walks
    over all keys, which an attacker with many addresses can make expensive.
    Here a walk comes when the number of keys has doubled.
    """

    STORAGE_SCHEME = ["process"]  # noqa: RUF012  as `limits` declares it
    base_exceptions = ValueError

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[str, tuple[int, float]] = {}  # how many, and when it ends
        self._sweep_at = 1024  # keys
        self._lock = Lock()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        with self._lock:
            now = time.time()
            count, end = self._windows.get(key, (0, 0.0))
            if end <= now:
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
        return count if end > time.time() else 0

    def get_expiry(self, key: str) -> float:
        return self._windows.get(key, (0, time.time()))[1]

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def reset(self) -> None:
        self._windows.clear()

    def check(self) -> bool:
        return True


class Counters:
    """Those of Redis, if there is one and it answers, else those of this process."""

    def __init__(self, redis_url: str | None) -> None:
        self._own = FixedWindowRateLimiter(ProcessStorage())
        self._shared = None
        self._is_silent = False
        self._ask_again_at = 0.0  # on the monotonic clock
        if redis_url is not None:
            options: dict[str, Any] = {
                "socket_timeout": REDIS_SECONDS,
                "socket_connect_timeout": REDIS_SECONDS,
                "retry": Retry(NoBackoff(), 0),
            }
            storage = RedisStorage(redis_url, key_prefix="microblog", **options)
            self._shared = FixedWindowRateLimiter(storage)

    def run(self, ask: Callable[[FixedWindowRateLimiter], R]) -> R:
        """The result of `ask`, with the counters of Redis or, where that fails, our own."""
        if self._shared is not None and time.monotonic() >= self._ask_again_at:
            if self._is_silent:  # one request asks; the others do not wait with it
                self._ask_again_at = time.monotonic() + PAUSE_SECONDS
            try:
                answer = ask(self._shared)
            except redis.RedisError as error:
                self._fell_silent(error)
            else:
                self._is_silent = False
                return answer
        return ask(self._own)

    def _fell_silent(self, error: redis.RedisError) -> None:
        self._ask_again_at = time.monotonic() + PAUSE_SECONDS
        if not self._is_silent:
            self._is_silent = True
            _log.warning("Redis cannot be used; each process counts by itself: %s", error)
