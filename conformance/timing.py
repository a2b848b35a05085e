"""What the time of an answer tells, and how many passwords may be tried.

Runs last: where wrong passwords are limited, nobody from here can log in for a while.
"""

import math
import random
import statistics
import time
from itertools import groupby

from conformance.checks import SkippedError, check, require
from conformance.run import Person, Run

WARM_UP = 3
WRONG_PASSWORDS = 200
# Both are required, as a difference that is sure may be too small to be of use.
PROBABILITY, DIFFERENCE = 0.001, 0.1


def mann_whitney(one: list[float], other: list[float]) -> float:
    """Return the probability of ranks at least as different, if there is no difference.

    Two-sided, with the normal approximation and the correction for ties.
    """
    ordered = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    count, ranks_of_one, ties, before = len(ordered), 0.0, 0, 0
    for _, group in groupby(ordered, key=lambda pair: pair[0]):
        members = list(group)
        same = len(members)
        ranks_of_one += sum(which == 0 for _, which in members) * (before + (same + 1) / 2)
        ties += same**3 - same
        before += same
    product = len(one) * len(other)
    u = ranks_of_one - len(one) * (len(one) + 1) / 2
    variance = product / 12 * (count + 1 - ties / (count * (count - 1)))
    if variance <= 0:
        return 1.0  # all values are the same
    return math.erfc(abs(u - product / 2) / math.sqrt(2 * variance))


def _expendable(run: Run) -> Person:
    """Return a user whose log ins may be blocked by this; they have logged in before."""
    person = run.new_person() if run.registers else run.bob
    run.log_in(person)
    return person


@check("wrong passwords for one user are limited")
def limited(run: Run) -> str:
    try:
        person = _expendable(run)
    except SkippedError as error:
        return f"already: {error}"
    for number in range(WRONG_PASSWORDS):
        answer = run.ask_for_token(Person(person.name, run.made_up().password))
        if answer.status == 429:
            return f"429 after {number} wrong passwords"
        require(answer.status in {401, 403}, answer)
    answer = run.ask_for_token(person)
    require(
        answer.status != 200, f"{WRONG_PASSWORDS} wrong passwords, and then the right one works"
    )
    return f"after {WRONG_PASSWORDS} wrong passwords, {answer.status} for the right one"


@check("an unknown user takes as long as a wrong password")
def unknown_user(run: Run) -> str:
    known = _expendable(run)
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(WARM_UP + run.rounds):
        turns = [0, 1]
        random.shuffle(turns)
        for turn in turns:
            person = run.made_up()
            if turn == 1:
                person.name = known.name
            start = time.perf_counter()
            answer = run.ask_for_token(person)
            took = time.perf_counter() - start
            if answer.status == 429:
                tried = number + 1
                raise SkippedError(f"limited after {tried} wrong passwords for a user (good)")
            require(answer.status == 401, answer)
            if number >= WARM_UP:
                seconds[turn].append(took)
    return judged(*seconds)


def judged(unknown: list[float], known: list[float]) -> str:
    """Return the medians of both; require that they do not differ."""
    p, one, other = mann_whitney(unknown, known), *map(statistics.median, (unknown, known))
    seen = f"unknown {one * 1000:.1f} ms, known {other * 1000:.1f} ms, p = {p:.2g}"
    differ = p < PROBABILITY and abs(one - other) > DIFFERENCE * max(one, other)
    require(not differ, seen)
    return seen
