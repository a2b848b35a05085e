"""Passwords: hash, verify, and what is accepted as a new one."""

from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from flask import current_app
from werkzeug.security import check_password_hash

MAX_LENGTH = 256  # characters; hashing more only serves those who want to keep us busy


def hash_password(password: str) -> str:
    """An Argon2id hash in PHC string format, with the parameters of the configuration."""
    return _hasher().hash(password)


def verify_password(password_hash: str | None, password: str) -> bool:
    """Whether `password` is the one that was hashed.

    Reads Argon2 and, for the users of an existing database, Werkzeug's scrypt
    and pbkdf2. A hash that is `None` matches nothing, in the time a wrong
    password takes, so that the time does not tell which users exist; it does
    tell those of Werkzeug's hashes, until their next log in replaces them. A
    hash that cannot be read matches nothing either.
    """
    if password_hash is None:
        hash_password(password)
        return False
    try:
        if password_hash.startswith("$argon2"):
            return _hasher().verify(password_hash, password)
        return check_password_hash(password_hash, password)
    except (VerificationError, InvalidHashError, ValueError):
        return False


def needs_rehash(password_hash: str) -> bool:
    """Whether the hash was made in another way than `hash_password` makes it now."""
    try:
        return _hasher().check_needs_rehash(password_hash)
    except InvalidHashError:
        return True


def refusal(password: str) -> str | None:
    """Why `password` is not accepted as a new one, or `None` if it is.

    Length is the only rule, as NIST SP 800-63B-4 has it; nothing is truncated.
    """
    shortest = current_app.config["PASSWORD_MIN_LENGTH"]
    if not shortest <= len(password) <= MAX_LENGTH:
        return f"must be {shortest} to {MAX_LENGTH} characters long"
    return None


def _hasher() -> PasswordHasher:
    config = current_app.config
    return _hasher_of(config["ARGON2_TIME_COST"], config["ARGON2_MEMORY_KIB"])


@lru_cache
def _hasher_of(time_cost: int, memory_kib: int) -> PasswordHasher:
    return PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)
