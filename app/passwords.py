"""Passwords: hash, verify, and what is accepted as a new one."""

import os
import string
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, lru_cache, partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from flask import Flask, current_app
from werkzeug.security import check_password_hash

R = TypeVar("R")

MAX_LENGTH = 256  # characters; hashing more only serves those who want to keep us busy
WAIT_SECONDS = 1  # for one's turn to hash

# The name of the service; NIST SP 800-63B-4, 3.1.1.2 calls it a context-specific word.
_OUR_NAME = "microblog"
_ORNAMENTS = string.digits + string.punctuation + string.whitespace


class BusyError(Exception):
    """Too many passwords are being hashed at this moment."""


def init_app(app: Flask) -> None:
    # A quarter of the threads of a server is never kept waiting by passwords: a
    # flood of log ins does not stop those who come with a token.
    app.extensions["passwords"] = _Hashers(
        hashes_at_once=app.config["PASSWORD_HASH_CONCURRENCY"],
        requests_at_once=max(1, app.config["WEB_THREADS"] * 3 // 4),
    )


class _Hashers:
    """The threads that hash, for all others: a hash takes a core and `ARGON2_MEMORY_KIB`.

    Threads of their own, as each thread that has hashed once keeps the memory.
    """

    def __init__(self, hashes_at_once: int, requests_at_once: int) -> None:
        self._sizes = hashes_at_once, requests_at_once
        self._begin()
        # Threads do not live on in a process that is forked.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        hashes_at_once, requests_at_once = self._sizes
        self._threads = ThreadPoolExecutor(hashes_at_once, thread_name_prefix="passwords")
        self._requests = BoundedSemaphore(requests_at_once)

    def run(self, call: Callable[[], R]) -> R:
        """The result of `call`, which knows of no application and no request.

        Raises:
            BusyError: it was not called: its turn did not come within a second,
                or too many others were waiting for theirs.
        """
        if not self._requests.acquire(blocking=False):
            raise BusyError
        try:
            future = self._threads.submit(call)
            wait([future], timeout=WAIT_SECONDS)
            if future.cancel():
                raise BusyError
            return future.result()
        finally:
            self._requests.release()


def hash_password(password: str) -> str:
    """An Argon2id hash in PHC string format, with the parameters of the configuration.

    Raises:
        BusyError: nothing was hashed.
    """
    return _run(partial(_hasher().hash, password))


def verify_password(
    password_hash: str | None,
    password: str,
    before: Callable[[], None] = lambda: None,
) -> bool:
    """Whether `password` is the one that was hashed.

    Reads Argon2 and, for the users of an existing database, Werkzeug's scrypt
    and pbkdf2. A hash that is `None` matches nothing, in the time a wrong
    password takes, so that the time does not tell which users exist; it does
    tell those of Werkzeug's hashes, until their next log in replaces them. A
    hash that cannot be read matches nothing either.

    Args:
        password_hash: `None` for a user who has none, or does not exist.
        password: to be verified.
        before: is called once it is this one's turn, before anything is hashed; in
            a thread that knows of no application and no request.

    Raises:
        BusyError: nothing was hashed, and `before` not called.
    """
    hasher, parameters = _hasher(), _parameters()

    def verify() -> bool:
        before()
        try:
            if password_hash is None:
                hasher.verify(_nobodys_hash(*parameters), password)
                return False
            if password_hash.startswith("$argon2"):
                return hasher.verify(password_hash, password)
            return check_password_hash(password_hash, password)
        except (VerificationError, InvalidHashError, ValueError):
            return False

    return _run(verify)


def needs_rehash(password_hash: str) -> bool:
    """Whether the hash was made in another way than `hash_password` makes it now."""
    try:
        return _hasher().check_needs_rehash(password_hash)
    except InvalidHashError:
        return True


def refusal(password: str, *names: str) -> str | None:
    """Why `password` is not accepted as a new one, or `None` if it is.

    NIST SP 800-63B-4, 3.1.1.2: a length, no rules about kinds of characters,
    nothing truncated, and none that a guesser tries first.

    Args:
        password: that somebody wants to have.
        names: of its owner; user name and e-mail address.
    """
    shortest = current_app.config["PASSWORD_MIN_LENGTH"]
    if not shortest <= len(password) <= MAX_LENGTH:
        return f"must be {shortest} to {MAX_LENGTH} characters long"
    if password.casefold() in _common():
        return "must be other than the most common passwords, which are guessed first"
    owners = {form for name in names for form in (name, name.partition("@")[0])}
    for word in (_OUR_NAME, *owners):
        if _is_little_more_than(word, password, shortest):
            what = "your own name" if word in owners else repr(word)
            return f"must be more than {what} and a few characters"
    return None


def _is_little_more_than(word: str, password: str, shortest: int) -> bool:
    """Whether `password` is `word`, in any case, and too few digits and signs around it.

    Too few are those that would not make a password by themselves.
    """
    password, word = password.casefold(), word.casefold()
    core = word.strip(_ORNAMENTS)
    if core == "" or password.strip(_ORNAMENTS) != core:
        return password == word
    return len(password) - len(core) < shortest


@cache
def _common() -> frozenset[str]:
    lines = (Path(__file__).parent / "common_passwords.txt").read_text().splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


def _run(call: Callable[[], R]) -> R:
    hashers: _Hashers = current_app.extensions["passwords"]
    return hashers.run(call)


def _hasher() -> PasswordHasher:
    return _hasher_of(*_parameters())


def _parameters() -> tuple[int, int]:
    return current_app.config["ARGON2_TIME_COST"], current_app.config["ARGON2_MEMORY_KIB"]


@lru_cache
def _hasher_of(time_cost: int, memory_kib: int) -> PasswordHasher:
    return PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)


def _nobodys_hash(time_cost: int, memory_kib: int) -> str:
    """What nobody's password is, in the form of a hash, for those who have none."""
    return f"$argon2id$v=19$m={memory_kib},t={time_cost},p=1${'A' * 22}${'A' * 43}"
