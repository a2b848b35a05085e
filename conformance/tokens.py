"""The text of a token, and where it may be."""

import math
import string
from itertools import takewhile
from typing import NoReturn

from conformance.checks import SkippedError, check, require
from conformance.run import Run, token_of

SAMPLES = 8
BITS = 128
_ALPHABETS = (
    string.digits,
    string.digits + "abcdef",
    string.digits + string.ascii_lowercase,
    string.digits + string.ascii_letters,
)


def same_at_start(texts: list[str]) -> int:
    """Return how many characters all texts begin with alike."""
    columns = zip(*texts, strict=False)
    return sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, columns))


def estimated_bits(tokens: list[str]) -> float:
    """Return how many bits the part of the tokens has that is not the same in all.

    It is the most that they can have: a poor generator is not noticed.
    """
    start = same_at_start(tokens)
    end = same_at_start([token[start:][::-1] for token in tokens])
    varying = [token[start : len(token) - end] for token in tokens]
    letters = set("".join(varying))
    size = next((len(a) for a in _ALPHABETS if letters <= set(a)), 64)
    return min(map(len, varying)) * math.log2(size)


@check("a token has at least 128 bits, and no two are alike")
def entropy(run: Run) -> str:
    tokens = []
    for _ in range(SAMPLES // 2):
        for person in (run.alice, run.bob):
            tokens.append(run.log_in(person))
            run.revoke(tokens[-1])
    require(len(set(tokens)) == SAMPLES, "a log in after a log out returns a former token")
    bits = estimated_bits(tokens)
    seen = f"at most {bits:.0f} bits in {len(tokens[0])} characters"
    require(bits >= BITS, seen)
    return seen


@check("a token that is changed a little opens nothing")
def changed_token(run: Run) -> str:
    token = run.log_in(run.alice)
    others = {
        "in other case": token.swapcase(),
        "without its last character": token[:-1],
        "with one more": token + "a",
        "with % at its end": token[:-1] + "%",
        "with another last character": token[:-1] + ("b" if token[-1] == "a" else "a"),
    }
    for how, other in others.items():
        require(other == token or not run.opens(other), f"{how} it is accepted")
    return f"{len(others)} changes"


@check("a token in the query string opens nothing")
def query_string(run: Run) -> str:
    token = run.log_in(run.alice)
    for name in ("token", "access_token", "auth_token", "api_key"):
        answer = run.connection.ask("GET", f"/users?{name}={token}")
        require(answer.status in {400, 401}, f"{answer.status} for GET /users?{name}=...")
    return "4 names"


@check("a token is in no header of an answer")
def headers(run: Run) -> str:
    answer = run.ask_for_token(run.alice)
    token = token_of(answer)
    for seen in (answer, run.connection.ask("GET", "/users", token=token)):
        for name, value in seen.headers.items():
            require(token not in value, f"{seen}: it is in {name}")
    return f"{len(answer.headers)} headers of {answer}"


@check("the answer with a token has Cache-Control: no-store")
def no_store(run: Run) -> str:
    answer = run.ask_for_token(run.alice)
    value = answer.headers.get("Cache-Control")
    require("no-store" in (value or ""), f"{answer}: Cache-Control is {value}")
    return f"Cache-Control: {value}"


@check("a token ends when it expires")
def expiry(_: Run) -> NoReturn:
    raise SkippedError("takes the clock of the server")
