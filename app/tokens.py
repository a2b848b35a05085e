"""The text of a token: make it, recognise it, seal or digest it for the database.

A token is `mbl_` (login) or `mba_` (access), then 30 characters of `0-9A-Za-z`
from the operating system's generator (178 bits), then 6 characters of checksum:
the CRC-32 of everything before them, as a base-62 number with leading zeros.

The prefix lets secret scanners find a leaked token, and the checksum lets a
typo or a flood of garbage be refused without asking the database. Neither is a
secret, and neither is a defence on its own.
"""

import hashlib
import re
import secrets
import string
from collections.abc import Iterable
from functools import lru_cache
from zlib import crc32

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LOGIN_PREFIX = "mbl_"
ACCESS_PREFIX = "mba_"

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE = re.compile(rf"(?:{LOGIN_PREFIX}|{ACCESS_PREFIX})[0-9A-Za-z]{{36}}", re.ASCII)
_CHECKSUM_LENGTH = 6  # 62 ** 6 > 2 ** 32


def make(prefix: str = LOGIN_PREFIX) -> str:
    """A token that nobody has seen before."""
    text = prefix + "".join(secrets.choice(_BASE62) for _ in range(30))
    return text + _checksum(text)


def has_shape(text: str) -> bool:
    """Whether `text` is meant to be a token, mistyped or not."""
    return _SHAPE.fullmatch(text) is not None


def is_token(text: str) -> bool:
    """Whether `text` has the shape and the checksum of a token; says nothing about its owner."""
    return has_shape(text) and _checksum(text[:-_CHECKSUM_LENGTH]) == text[-_CHECKSUM_LENGTH:]


def _checksum(text: str) -> str:
    number = crc32(text.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def is_access_token(text: str) -> bool:
    """Whether `text`, which is a token, is an access token and no login token."""
    return text.startswith(ACCESS_PREFIX)


def digest(text: str) -> bytes:
    """The form in which an access token is stored: SHA-256, 32 bytes.

    No salt and no slow hash: nobody guesses 178 random bits.
    """
    return hashlib.sha256(text.encode()).digest()


def seal(text: str, secret_key: str) -> bytes:
    """The form in which a token is stored: 16 bytes longer than its text.

    Encrypted with AES-256-SIV (RFC 5297), which is deterministic: the same
    token under the same key is always the same bytes, so that a unique index
    finds it. Without the key they are worth nothing.
    """
    return _cipher(secret_key).encrypt(text.encode(), None)


def unseal(sealed: bytes, secret_keys: Iterable[str]) -> str | None:
    """The token's text, or `None` if it was sealed under none of the keys."""
    for secret_key in secret_keys:
        try:
            return _cipher(secret_key).decrypt(sealed, None).decode()
        except InvalidTag:
            continue
    return None


@lru_cache
def _cipher(secret_key: str) -> AESSIV:
    # HKDF (RFC 5869) turns a key of any length into the 64 bytes AES-256-SIV
    # wants; `info` keeps it apart from whatever else SECRET_KEY is used for.
    info = b"microblog-api login token AES-256-SIV"
    hkdf = HKDF(algorithm=SHA256(), length=64, salt=None, info=info)
    return AESSIV(hkdf.derive(secret_key.encode(errors="surrogateescape")))
