"""A run: the API, the users that were registered for it, and what all checks need."""

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from conformance.checks import FailedError, SkippedError
from conformance.client import Answer, Connection, NoAnswerError, UnusableError, basic

CREATED, OK, UNAUTHORIZED, NOT_FOUND, TOO_MANY = 201, 200, 401, 404, 429
T = TypeVar("T")
_CLOSED = {401, 403, 405}


@dataclass
class Person:
    """A user.

    Attributes:
        id: `None` if it is unknown.
        email: `None` if it is unknown.
    """

    name: str
    password: str
    email: str | None = None
    id: int | None = None

    @property
    def json(self) -> dict[str, Any]:
        return {"username": self.name, "email": self.email, "password": self.password}


class Run:
    """What the checks share.

    Args:
        connection: of the checks that need one alone.
        rounds: measurements of each kind where time is measured.
        people: two users who are there already; none to register them.
        database: the URL of the database of the API, or `None`.

    Attributes:
        alice, bob: who most checks are about.

    Raises:
        UnusableError: no two users can be had.
    """

    def __init__(
        self,
        connection: Connection,
        rounds: int,
        people: list[Person],
        database: str | None = None,
    ) -> None:
        self.connection, self.rounds, self.database = connection, rounds, database
        self.api = api = connection.api
        self.id = secrets.token_hex(4)
        self.count = 0
        self.registers = not people
        try:
            if people:
                self.alice, self.bob = people
                for person in people:
                    person.id = self._id_of(person)
            else:
                self.alice, self.bob = self._first_person(), self.new_person()
            self.log_in(self.alice)
            self.log_in(self.bob)
        except NoAnswerError as error:
            raise UnusableError(f"{api.url}: {error}") from error
        except (FailedError, SkippedError) as error:
            raise UnusableError(f"{api.url} cannot be used: {error}") from error

    @property
    def race_rounds(self) -> int:
        return max(3, self.rounds // 10)

    # -- Users -------------------------------------------------------------------------

    def made_up(self) -> Person:
        """Return a user who is not registered."""
        self.count += 1
        name = f"conf{self.id}x{self.count}"
        return Person(name, "Cf1!" + secrets.token_urlsafe(15), f"{name}@example.com")

    def register(self, person: Person, connection: Connection | None = None) -> Answer:
        return (connection or self.connection).ask("POST", "/users", json_body=person.json)

    def new_person(self, password: str | None = None) -> Person:
        """Return a user who has just registered.

        Raises:
            SkippedError: nobody can register.
        """
        self.require_registration()
        person = self.made_up()
        person.password = password or person.password
        answer = self.register(person)
        if answer.status == TOO_MANY:
            raise SkippedError(f"registration is limited: {answer}")
        if answer.status != CREATED:
            raise FailedError(f"{answer}: {answer.text[:80]}")
        person.id = _number(answer)
        return person

    def require_registration(self) -> None:
        if not self.registers:
            raise SkippedError("registers users, and --user was given")

    def _first_person(self) -> Person:
        person = self.made_up()
        answer = self.register(person)
        if answer.status == NOT_FOUND:
            raise UnusableError(f"{answer}: is --prefix right? If nobody can register, give --user")
        if answer.status in _CLOSED:
            raise UnusableError(f"nobody can register ({answer}): give two users with --user")
        if answer.status != CREATED:
            raise UnusableError(f"{answer}: {answer.text[:100]}; or give two users with --user")
        person.id = _number(answer)
        return person

    def _id_of(self, person: Person) -> int | None:
        """Return the id that the list of users says; `None` if it is not there."""
        token = self.log_in(person)
        path: str | None = "/users?per_page=100"
        for _ in range(100):
            answer = self.connection.ask("GET", path or "", token=token)
            for item in answer.field("items") or []:
                if isinstance(item, dict) and item.get("username") == person.name:
                    person.email = item.get("email")
                    return int(item["id"])
            link = answer.field("_links", "next")
            if not isinstance(link, str):
                break
            path = self.api.path_of_link(link)
        return None

    # -- Logging in and out ------------------------------------------------------------

    def ask_for_token(
        self, person: Person, connection: Connection | None = None, encoding: str = "utf-8"
    ) -> Answer:
        headers = basic(person.name, person.password, encoding)
        return (connection or self.connection).ask("POST", "/tokens", headers=headers)

    def log_in(self, person: Person, connection: Connection | None = None) -> str:
        """Return a token.

        Raises:
            FailedError: there was none.
            SkippedError: log ins are limited.
        """
        answer = self.ask_for_token(person, connection)
        if answer.status == TOO_MANY:
            wait = answer.headers.get("Retry-After", "some")
            raise SkippedError(f"log ins are limited ({answer}): wait {wait} seconds")
        return token_of(answer)

    def revoke(self, token: str, connection: Connection | None = None) -> Answer:
        return (connection or self.connection).ask("DELETE", "/tokens", token=token)

    def log_out(self, person: Person) -> None:
        self.revoke(self.log_in(person))

    def opens(self, token: str, connection: Connection | None = None) -> bool:
        """Return whether a token is accepted."""
        answer = (connection or self.connection).ask("GET", "/users?per_page=1", token=token)
        if answer.status not in {OK, UNAUTHORIZED}:
            raise FailedError(str(answer))
        return answer.status == OK

    # -- Several at once ---------------------------------------------------------------

    @contextmanager
    def connections(self, count: int) -> Iterator[list[Connection]]:
        """Yield connections that are open already."""
        with ExitStack() as stack:
            opened = [stack.enter_context(Connection(self.api)) for _ in range(count)]
            for connection in opened:
                connection.ask("GET", "/users")
            yield opened


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Return the results of calls that start at the same moment, in threads."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def token_of(answer: Answer) -> str:
    """Return the token of an answer to a log in; microblog-api calls it `access_token`."""
    token = answer.field("token") or answer.field("access_token")
    if answer.status not in {OK, CREATED} or not isinstance(token, str):
        raise FailedError(f"{answer}, and no token: {answer.text[:80]}")
    return token


def _number(answer: Answer) -> int | None:
    number = answer.field("id")
    if isinstance(number, int):
        return number
    last = answer.headers.get("Location", "").rstrip("/").rpartition("/")[2]
    return int(last) if last.isdigit() else None
