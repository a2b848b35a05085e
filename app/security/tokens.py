"""The text of a token: make it, recognise it, seal or digest it for the database.

A token is `mbl_` (login), `mbd_` (log in of a device) or `mba_` (access), then 30
characters of `0-9A-Za-z` from the operating system's generator (178 bits), then 6
characters of checksum: the CRC-32 of everything before them, as a base-62 number with
leading zeros.

The prefix lets secret scanners find a leaked token. The checksum lets a typo or a
flood of garbage be refused without asking the database. Neither is a secret, and
neither is a defence on its own.

A login token may also be one of the tutorial, 32 characters of `0-9A-Za-z+/`, which came
with its database (`flask move-in`). It has neither prefix nor checksum, is not renewed, and
none is made here.
"""

import hashlib
import re
import secrets
import string
from contextlib import suppress
from functools import lru_cache
from zlib import crc32

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flask import current_app

LOGIN_PREFIX = "mbl_"
DEVICE_PREFIX = "mbd_"
ACCESS_PREFIX = "mba_"
PREFIX_LENGTH = 4

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE = re.compile(rf"(?:{LOGIN_PREFIX}|{DEVICE_PREFIX}|{ACCESS_PREFIX})[0-9A-Za-z]{{36}}")
# In the tutorial, 16 random bytes in hexadecimal; before 2024, 24 in base64.
_SHAPE_OF_TUTORIAL = re.compile(r"[0-9A-Za-z+/]{32}")
_RANDOM_LENGTH = 30
_CHECKSUM_LENGTH = 6  # 62 ** 6 > 2 ** 32


def make(prefix: str = LOGIN_PREFIX) -> str:
    """Return a new random token."""
    text = prefix + "".join(secrets.choice(_BASE62) for _ in range(_RANDOM_LENGTH))
    return text + _checksum(text)


def has_shape(text: str) -> bool:
    """Return whether `text` looks like a token, mistyped or not."""
    return _SHAPE.fullmatch(text) is not None


def is_valid(text: str, prefix: str = "") -> bool:
    """Return whether `text` is a token with this prefix, or any: shape and checksum are right."""
    return (
        text.startswith(prefix)
        and has_shape(text)
        and _checksum(text[:-_CHECKSUM_LENGTH]) == text[-_CHECKSUM_LENGTH:]
    )


def is_of_tutorial(text: str) -> bool:
    """Return whether `text` has the shape of a token of the tutorial, which none of ours has."""
    return _SHAPE_OF_TUTORIAL.fullmatch(text) is not None


def may_be_login_token(text: str) -> bool:
    """Return whether the database has to be asked for a login token with this text."""
    return is_valid(text, LOGIN_PREFIX) or is_of_tutorial(text)


def _checksum(text: str) -> str:
    number = crc32(text.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def digest(text: str) -> bytes:
    """Return what is stored of an access token or a device's: SHA-256, 32 bytes.

    No salt and no slow hash: 178 random bits cannot be guessed.
    """
    return hashlib.sha256(text.encode()).digest()


def seal(text: str) -> bytes:
    """Return what is stored of a login token: 16 bytes more than its text.

    Encrypted under `SECRET_KEY` with AES-256-SIV (RFC 5297), which is deterministic:
    the same token under the same key gives the same bytes, so that a unique index
    finds it. The bytes are worthless without the key.
    """
    return sealed_forms(text)[0]


def sealed_forms(text: str) -> list[bytes]:
    """Return what may be stored of a login token: under `SECRET_KEY`, then its fallbacks."""
    data = text.encode()
    return [_cipher(key).encrypt(data, None) for key in _secret_keys()]


def unseal(sealed: bytes) -> str | None:
    """Return the text of a sealed token; `None` if no configured key fits."""
    for key in _secret_keys():
        with suppress(InvalidTag):
            return _cipher(key).decrypt(sealed, None).decode()
    return None


def is_sealed_under_current_key(sealed: bytes) -> bool:
    """Return whether `SECRET_KEY` itself, and not a fallback, unseals the token."""
    text = unseal(sealed)
    return text is not None and seal(text) == sealed


def _secret_keys() -> list[str]:
    config = current_app.config
    return [config["SECRET_KEY"], *(config["SECRET_KEY_FALLBACKS"] or ())]


@lru_cache
def _cipher(secret_key: str) -> AESSIV:
    # HKDF (RFC 5869) turns a key of any length into the 64 bytes that AES-256-SIV
    # wants; `info` keeps it apart from whatever else SECRET_KEY is used for.
    info = b"microblog-api login token AES-256-SIV"
    hkdf = HKDF(algorithm=SHA256(), length=64, salt=None, info=info)
    return AESSIV(hkdf.derive(secret_key.encode(errors="surrogateescape")))
