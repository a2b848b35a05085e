"""Users of a tutorial database who cannot keep their user name or address, and new ones for them.

The tutorial's columns are unique with regard to case, may be empty, and on SQLite hold a text of
any length.
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import sqlalchemy as sa

from app.cli.move_in.copying import stream
from app.cli.move_in.values import UNSTORABLE, as_it_is, why_not
from app.models import User

_LONGEST = {
    "username": User.__table__.c.username.type.length,  # type: ignore[attr-defined]  # SQLAlchemy types it as FromClause
    "email": User.__table__.c.email.type.length,  # type: ignore[attr-defined]  # SQLAlchemy types it as FromClause
}
_IN_WORDS = {"username": "user name", "email": "address"}
_SHOWN = 20  # problems in the output; the file has all
FIELDS = ("id", "username", "email")


class Names(NamedTuple):
    """Of one user. In a file, an empty text keeps what the user has."""

    id: int
    username: str | None
    email: str | None


class Problem(NamedTuple):
    id: int
    texts: list[str]
    proposal: Names


def new_names(users: Iterable[Names], file: Path | None) -> dict[int, Names]:
    """Return the users of `file`, once all users have names that can be stored.

    Args:
        users: all of the source, by id.
        file: with the new names; it is written with proposals if it does not exist.

    Raises:
        click.ClickException: some names cannot be stored, or the file cannot be read.
    """
    chosen = read(file) if file is not None and file.exists() else {}
    unknown = set(chosen)
    problems = list(_problems(_with_chosen(users, chosen, unknown)))
    if unknown:
        raise click.ClickException(f"{file}: there is no user with the id {min(unknown)}")
    if not problems:
        return chosen
    for problem in problems[:_SHOWN]:
        click.echo(f"  user {problem.id}: {'; '.join(problem.texts)}")
    if len(problems) > _SHOWN:
        click.echo(f"  and {len(problems) - _SHOWN:,} others")
    text = f"{len(problems):,} users cannot be copied as they are"
    if file is None:
        raise click.ClickException(f"{text}; --resolve FILE writes proposals for them")
    if file.exists():
        raise click.ClickException(f"{text}; add them to {file}")
    write(file, [problem.proposal for problem in problems])
    raise click.ClickException(f"{text}; {file} has proposals: edit it, and repeat this")


def _with_chosen(
    users: Iterable[Names], chosen: dict[int, Names], unknown: set[int]
) -> Iterator[Names]:
    for user in users:
        unknown.discard(user.id)
        yield renamed(user, chosen)


def renamed(user: Names, chosen: dict[int, Names]) -> Names:
    new = chosen.get(user.id)
    if new is None:
        return user
    return Names(user.id, new.username or user.username, new.email or user.email)


def _problems(users: Iterable[Names]) -> Iterator[Problem]:
    owners: dict[str, dict[str, int]] = {field: {} for field in _LONGEST}
    with_at = []
    for user in users:
        texts = {}
        for field, longest in _LONGEST.items():
            text = getattr(user, field)
            reason = why_not(text, longest)
            owner = owners[field].setdefault(_folded(text), user.id)
            if reason is None and owner != user.id:
                reason = f"is that of user {owner}, but for upper and lower case"
            if reason is not None:
                texts[field] = f"the {_IN_WORDS[field]} {text!r:.80} {reason}"
        if texts:
            yield _problem(user, texts)
        elif "@" in str(user.username):
            with_at.append(user)
    for user in with_at:
        owner = owners["email"].get(_folded(user.username), user.id)
        if owner != user.id:  # a log in with it would be that of the other
            text = f"the user name {user.username!r:.80} is the address of user {owner}"
            yield _problem(user, {"username": text})


def _folded(text: Any) -> str:
    """Return what is the same for all texts that some database takes for the same.

    Letter by letter, as databases do: for Python, a sigma is another one at the end of a word.
    """
    return "".join(letter.lower()[0] for letter in str(text or ""))


def _problem(user: Names, texts: dict[str, str]) -> Problem:
    """Return the problem with names in place of those that cannot stay; they have the id."""
    username = email = ""
    if "username" in texts:
        end = f"-{user.id}"
        username = UNSTORABLE.sub("", str(user.username or "user"))
        username = username[: _LONGEST["username"] - len(end)] + end
    if "email" in texts:
        local, _, host = str(user.email or "").rpartition("@")
        email = f"{local}+{user.id}@{host}"
        if not local or why_not(email, _LONGEST["email"]):
            email = f"{user.id}@address.invalid"  # RFC 2606
    return Problem(user.id, list(texts.values()), Names(user.id, username, email))


def read(file: Path) -> dict[int, Names]:
    """Return the users of a CSV file by id.

    Raises:
        click.ClickException: it is no such file.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if tuple(rows.fieldnames or ()) != FIELDS:
                raise click.ClickException(f"{file}: the first line must be {','.join(FIELDS)}")
            found = {}
            for row in rows:
                if not re.fullmatch("-?[0-9]+", row["id"] or ""):
                    raise click.ClickException(
                        f"{file}, line {rows.line_num}: {row['id']!r} is no id of a user"
                    )
                found[int(row["id"])] = Names(int(row["id"]), row["username"], row["email"])
            return found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise click.ClickException(f"{file} cannot be read: {error}") from None


def write(file: Path, users: list[Names]) -> None:
    try:
        # For its owner only: it has addresses.
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with os.fdopen(number, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(FIELDS)
            writer.writerows(users)
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None


def names_in(connection: sa.Connection, users: sa.Table) -> Iterator[Names]:
    query = sa.select(*(as_it_is(users, name) for name in FIELDS)).order_by(users.c.id)
    for row in stream(connection, query):
        yield Names(*row)
