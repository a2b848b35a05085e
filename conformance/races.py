"""Requests at the same moment, from clients whose connections are open already."""

import time
from collections.abc import Callable
from functools import partial

from conformance.checks import SkippedError, check, require
from conformance.client import Answer, Connection
from conformance.contract import id_of
from conformance.run import Person, Run, at_once, token_of

REGISTRATIONS = 4  # at once
# No log out can be aimed at the middle of a log in that takes less.
SHORTEST_LOG_IN_SECONDS = 0.015
# With fewer rounds in which it was hit, one of bad luck would decide.
FEWEST_HITS = 5
TRIES_PER_HIT = 5  # a busy machine misses many


@check("two log ins at once both get a token that works")
def two_log_ins(run: Run) -> str:
    dead = 0
    with run.connections(2) as pair:
        for _ in range(run.race_rounds):
            run.log_out(run.alice)
            tokens = at_once(*(partial(run.log_in, run.alice, each) for each in pair))
            dead += not all(map(run.opens, tokens))
    require(not dead, f"in {dead} of {run.race_rounds} rounds a new token gets 401")
    return f"{run.race_rounds} rounds"


@check("a log in does not return a token whose log out was answered before")
def log_out_during_log_in(run: Run) -> str:
    """Log out with the live token while the password of a log in is being checked.

    The log in may return that token if its answer comes at about the same time: then
    it was the first of the two. If the log out was answered a fifth of a log in before
    the log in, the token that the log in returns has to work. Most such rounds decide:
    in one, the machine may have stopped in between.
    """
    wanted = max(FEWEST_HITS, run.race_rounds)
    hit = dead = 0
    with run.connections(2) as (one, other):
        for _ in range(TRIES_PER_HIT * wanted):
            live, took = _timed_log_in(run)  # how fast the machine is just now
            if took < SHORTEST_LOG_IN_SECONDS:
                continue
            (log_in, came), (log_out, ended) = at_once(
                partial(_timed, run.ask_for_token, run.alice, one),
                partial(_timed, _log_out_after, run, live, other, took / 2),
            )
            if log_out.status == 204 and came - ended > took / 5:
                hit += 1
                dead += not run.opens(token_of(log_in))
            if hit == wanted:
                break
    if hit < FEWEST_HITS:
        raise SkippedError(f"a log out was answered during {hit} log ins, which is too few")
    require(dead * 2 <= hit, f"in {dead} of {hit} rounds the new token gets 401")
    return f"{hit} rounds"


def _timed(ask: Callable[..., Answer], *arguments: object) -> tuple[Answer, float]:
    answer = ask(*arguments)
    return answer, time.perf_counter()


def _timed_log_in(run: Run) -> tuple[str, float]:
    """Return a token, and the seconds that the log in took."""
    start = time.perf_counter()
    token = run.log_in(run.alice)
    return token, time.perf_counter() - start


def _log_out_after(run: Run, token: str, connection: Connection, seconds: float) -> Answer:
    time.sleep(seconds)
    return run.revoke(token, connection)


@check("a log out does not end a token that was made after it")
def made_meanwhile(run: Run) -> str:
    """Log out three times at once with one token; after the first answer, log in."""
    dead = 0
    with run.connections(3) as (one, *others):
        for _ in range(run.race_rounds):
            live = run.log_in(run.alice)

            def log_out_and_in(token: str = live) -> str:
                run.revoke(token, one)
                return run.log_in(run.alice, one)

            def log_out(connection: Connection, token: str = live) -> str:
                run.revoke(token, connection)
                return token

            new, *_ = at_once(log_out_and_in, *(partial(log_out, other) for other in others))
            dead += not run.opens(new)
    require(not dead, f"in {dead} of {run.race_rounds} rounds the token gets 401")
    return f"{run.race_rounds} rounds"


@check("a token is refused by the very next request after its log out")
def refused_at_once(run: Run) -> str:
    accepted = 0
    with run.connections(4) as connections:
        for _ in range(run.race_rounds):
            token = run.log_in(run.alice)
            for connection in connections * 2:  # whatever remembers tokens knows it now
                run.opens(token, connection)
            answer = run.revoke(token, connections[0])
            require(answer.status == 204, answer)
            accepted += any(at_once(*(partial(run.opens, token, each) for each in connections)))
    require(not accepted, f"in {accepted} of {run.race_rounds} rounds it is still accepted")
    return f"{run.race_rounds} rounds"


@check("of registrations of one user name at once, one gets 201, the others 400")
def same_name(run: Run) -> str:
    return _register_at_once(run, "name")


@check("of registrations of one address at once, one gets 201, the others 400")
def same_address(run: Run) -> str:
    return _register_at_once(run, "email")


def _register_at_once(run: Run, shared: str) -> str:
    run.require_registration()
    rounds = max(3, run.race_rounds // 2)
    bad = []
    with run.connections(REGISTRATIONS) as connections:
        for _ in range(rounds):
            people = [run.made_up() for _ in connections]
            for person in people:
                setattr(person, shared, getattr(people[0], shared))
            calls = zip(people, connections, strict=True)
            answers = at_once(*(partial(run.register, *call) for call in calls))
            statuses = sorted(answer.status for answer in answers)
            if 429 in statuses:
                raise SkippedError(f"registration is limited: {statuses}")
            if statuses != [201] + [400] * (REGISTRATIONS - 1):
                bad.append(statuses)
    require(not bad, f"in {len(bad)} of {rounds} rounds not; {bad[:1]}")
    return f"{rounds} rounds"


@check("a change of password ends the tokens, also those of log ins meanwhile")
def changed_password(run: Run) -> str:
    person = run.new_person()
    kept = []
    with run.connections(2) as (one, other):
        for _ in range(max(3, run.race_rounds // 3)):
            token, former = run.log_in(person), Person(person.name, person.password)
            new = run.made_up().password
            answer, log_in = at_once(
                partial(_change_password, person, new, token, one),
                partial(run.ask_for_token, former, other),
            )
            require(answer.status in {200, 204}, f"{answer}: {answer.text[:60]}")
            person.password = new
            if run.opens(token):
                kept.append("the token of before works")
            if log_in.status == 200 and run.opens(token_of(log_in)):
                kept.append("a token of a log in meanwhile works")
            require(run.ask_for_token(former).status == 401, "the old password works")
            run.log_in(person)
    require(not kept, "; ".join(dict.fromkeys(kept)))
    return str(answer)


def _change_password(person: Person, new: str, token: str, connection: Connection) -> Answer:
    """Return the answer of the first route that there is."""
    routes = [
        (f"/users/{id_of(person)}/password", {"current_password": person.password}, "new_password"),
        ("/me", {"old_password": person.password}, "password"),  # microblog-api
    ]
    for path, body, name in routes:
        answer = connection.ask("PUT", path, token=token, json_body={**body, name: new})
        if answer.status not in {404, 405}:
            return answer
    raise SkippedError("no route is known that changes a password")
