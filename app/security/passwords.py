"""Passwords: hash and verify them, a few at a time."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache, partial
from threading import BoundedSemaphore
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from flask import Flask, current_app, has_app_context
from werkzeug.security import check_password_hash

R = TypeVar("R")

WAIT_SECONDS = 1  # that a password waits for its turn
# Passes and KiB where there is no application; the defaults of the settings.
DEFAULT_PARAMETERS = 2, 19456


class BusyError(Exception):
    """Too many passwords are being hashed at this moment."""


def init_app(app: Flask) -> None:
    # Passwords never keep the last quarter of a server's threads: a flood of log
    # ins does not stop requests with a token.
    app.extensions["passwords"] = _HashingThreads(
        hashes_at_once=app.config["PASSWORD_HASH_CONCURRENCY"],
        requests_at_once=max(1, app.config["WEB_THREADS"] * 3 // 4),
    )


class _HashingThreads:
    """The threads that hash. A hash takes a core and `ARGON2_MEMORY_KIB` of memory.

    A thread that has hashed once keeps the memory, so only these threads hash.
    """

    def __init__(self, hashes_at_once: int, requests_at_once: int) -> None:
        self._sizes = hashes_at_once, requests_at_once
        self._begin()
        # A forked process inherits no threads.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        hashes_at_once, requests_at_once = self._sizes
        self._threads = ThreadPoolExecutor(hashes_at_once, thread_name_prefix="passwords")
        self._requests = BoundedSemaphore(requests_at_once)
        self._futures: set[Future[Any]] = set()

    def run(self, call: Callable[[], R]) -> R:
        """Return the result of `call`, which runs without application and request context.

        Raises:
            BusyError: `call` did not run: its turn did not come within a second,
                or too many requests were waiting.
        """
        if not self._requests.acquire(blocking=False):
            raise BusyError
        try:
            future = self._threads.submit(call)
            self._futures.add(future)
            future.add_done_callback(self._futures.discard)
            wait([future], timeout=WAIT_SECONDS)
            if future.cancel():
                raise BusyError
            return future.result()
        finally:
            self._requests.release()

    def running_and_waiting(self) -> tuple[int, int]:
        """Return how many calls run, and how many wait for their turn."""
        futures = self._futures.copy()  # at once: other threads add to it
        running = [future.running() for future in futures]
        waiting = [not (future.running() or future.done()) for future in futures]
        return sum(running), sum(waiting)


def hash_password(password: str) -> str:
    """Return an Argon2id hash in PHC string format, with the configured parameters.

    Without an application context, with `DEFAULT_PARAMETERS`, in this thread.

    Raises:
        BusyError: nothing was hashed.
    """
    return _run(partial(_hasher().hash, password))


def find_match(
    password_hash: str | None,
    readings: list[str],
    before: Callable[[], None] = lambda: None,
    on_match: Callable[[], None] = lambda: None,
) -> str | None:
    """Return the reading of a password that matches the hash; `None` if none does.

    Reads Argon2 and, for the users of an imported database, Werkzeug's scrypt and
    pbkdf2. A missing hash takes as long as a wrong password, so that the time does
    not tell which users exist. Werkzeug's hashes take another time, until the next
    log in replaces them. A hash that cannot be read matches nothing.

    Args:
        password_hash: `None` for a user without a password, or no such user.
        readings: what the client may have meant, tried in this order.
        before: called when the turn has come, before anything is hashed.
        on_match: called if there is a match. Both run in the thread that
            hashes, without application and request context.

    Raises:
        BusyError: nothing was hashed, and `before` was not called.
    """
    hasher, parameters = _hasher(), _parameters()

    def compare(password: str) -> bool:
        try:
            if password_hash is None:
                hasher.verify(_unmatchable_hash(*parameters), password)
                return False
            if password_hash.startswith("$argon2"):
                return hasher.verify(password_hash, password)
            return check_password_hash(password_hash, password)
        except (VerificationError, InvalidHashError, ValueError):
            return False

    def find() -> str | None:
        before()
        match = next(filter(compare, readings), None)
        if match is not None:
            on_match()
        return match

    return _run(find)


def as_latin_1(password: str) -> str:
    """Return a password as a client that encodes in Latin-1 has meant it.

    Where its bytes happen to be UTF-8, too: "Ã¼" in Latin-1 is "ü" in UTF-8.
    """
    return password.encode(errors="surrogatepass").decode("latin-1")


def needs_rehash(password_hash: str | None) -> bool:
    """Return whether the hash was made with other than the configured parameters."""
    if password_hash is None:
        return False
    try:
        return _hasher().check_needs_rehash(password_hash)
    except InvalidHashError:
        return True


def _run(call: Callable[[], R]) -> R:
    if not has_app_context():  # a script or a unit test, which is alone
        return call()
    threads: _HashingThreads = current_app.extensions["passwords"]
    return threads.run(call)


def _hasher() -> PasswordHasher:
    return _hasher_of(*_parameters())


def _parameters() -> tuple[int, int]:
    if not has_app_context():
        return DEFAULT_PARAMETERS
    return current_app.config["ARGON2_TIME_COST"], current_app.config["ARGON2_MEMORY_KIB"]


@lru_cache
def _hasher_of(time_cost: int, memory_kib: int) -> PasswordHasher:
    return PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)


def _unmatchable_hash(time_cost: int, memory_kib: int) -> str:
    """A hash that nothing matches, so that a missing user takes as long as a wrong password."""
    return f"$argon2id$v=19$m={memory_kib},t={time_cost},p=1${'A' * 22}${'A' * 43}"
