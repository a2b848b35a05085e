"""What a check is, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conformance.client import NoAnswerError, UnusableError

if TYPE_CHECKING:
    from conformance.run import Run

OK, FAILED, SKIPPED = "ok", "FAILED", "-"


class FailedError(Exception):
    """The API does not do what the check claims; the message is what was seen."""


class SkippedError(Exception):
    """The check does not apply; the message is the reason."""


@dataclass
class Result:
    kind: str
    check: str
    result: str
    detail: str


@dataclass
class Check:
    """A claim about the API.

    Attributes:
        kind: the name of its module.
        claim: what holds if it is ok.
        function: returns what was seen; raises `FailedError` or `SkippedError`.
    """

    kind: str
    claim: str
    function: Callable[["Run"], str]

    def result(self, run: "Run") -> Result:
        try:
            detail, result = self.function(run), OK
        except SkippedError as error:
            detail, result = str(error), SKIPPED
        except UnusableError as error:
            detail, result = str(error), SKIPPED
        except (FailedError, NoAnswerError) as error:
            detail, result = str(error), FAILED
        except Exception as error:  # noqa: BLE001  the API may answer anything, as a list
            detail, result = f"an answer of another form: {error!r}", FAILED
        return Result(self.kind, self.claim, result, " ".join(detail.split())[:160])


ALL: list[Check] = []


def check(claim: str) -> Callable[[Callable[["Run"], str]], Callable[["Run"], str]]:
    """Add a function to the checks of its module."""

    def add(function: Callable[["Run"], str]) -> Callable[["Run"], str]:
        ALL.append(Check(function.__module__.rpartition(".")[2], claim, function))
        return function

    return add


def require(condition: object, seen: object) -> None:
    """Raise `FailedError` with what was seen, unless the condition holds."""
    if not condition:
        raise FailedError(str(seen))
