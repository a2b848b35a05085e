"""Which new passwords are accepted (NIST SP 800-63B-4, 3.1.1.2).

A length, and no rules about kinds of characters. Refused are the passwords that
a guesser tries first: common ones, the user's own name, the name of the service,
each with or without a few digits and signs, and one character repeated
(`PASSWORD_BLOCKLIST`).
"""

import string
from functools import cache
from pathlib import Path

from flask import current_app

MAX_LENGTH = 256  # characters; longer ones only cost CPU time to hash

_DIGITS_AND_SIGNS = string.digits + string.punctuation + string.whitespace


def refusal(password: str, *names: str) -> str | None:
    """Return why `password` is refused as a new one, or `None` if it is accepted.

    Args:
        password: the new password.
        names: user name and e-mail address of its owner.
    """
    shortest = current_app.config["PASSWORD_MIN_LENGTH"]
    if not shortest <= len(password) <= MAX_LENGTH:
        return f"must be {shortest} to {MAX_LENGTH} characters long"
    if not current_app.config["PASSWORD_BLOCKLIST"]:
        return None
    folded = password.casefold()
    if len(set(folded)) == 1:
        return "must be more than one character repeated"
    if folded in _common_passwords():
        return "must be other than the most common passwords, which are guessed first"
    core = folded.strip(_DIGITS_AND_SIGNS)
    words = {name: repr(name) for name in _names_of_service()}
    words |= {core: "a common password"} if core in _common_passwords() else {}
    words |= {form: "your own name" for name in names for form in (name, name.partition("@")[0])}
    for word, what in words.items():
        if _is_little_more_than(word, folded, shortest):
            return f"must be more than {what} and a few characters"
    return None


def _is_little_more_than(word: str, password: str, shortest: int) -> bool:
    """Return whether `password` is `word` with fewer than `shortest` digits and signs added."""
    word = word.casefold()
    core = word.strip(_DIGITS_AND_SIGNS)
    if core == "" or password.strip(_DIGITS_AND_SIGNS) != core:
        return password == word
    return len(password) - len(core) < shortest


def _names_of_service() -> set[str]:
    """`APP_NAME` and its longer words (NIST calls them context-specific)."""
    name: str = current_app.config["APP_NAME"].casefold()
    return {name, *(word for word in name.split() if len(word) > len("api"))}


@cache
def _common_passwords() -> frozenset[str]:
    lines = Path(__file__).with_name("common_passwords.txt").read_text().splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))
