"""What somebody finds who has a copy of the database."""

import base64
import importlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from conformance.checks import SkippedError, check, require
from conformance.client import UnusableError
from conformance.run import Run

# What slow hashes begin with, as text.
_SLOW = re.compile(r"\$?(argon2|scrypt|pbkdf2|bcrypt|2[abxy]\$|y\$|6\$|5\$)", re.IGNORECASE)
# A digest of MD5 or of a SHA, also behind a name and a salt.
_FAST = re.compile(
    r"(?:(?:md5|sha\d*|hmac)[:$].*)?"
    r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{56}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})",
    re.IGNORECASE,
)

Row = dict[str, Any]


def rows(url: str) -> Iterator[tuple[str, Row]]:
    """Yield table and columns of each row of the database.

    Raises:
        SkippedError: the driver is not installed.
        UnusableError: it cannot be read.
    """
    kind = urlsplit(url).scheme.partition("+")[0]
    readers = {"sqlite": _sqlite, "postgresql": _postgresql, "postgres": _postgresql}
    readers |= {"mysql": _mysql, "mariadb": _mysql}
    if kind not in readers:
        raise UnusableError(
            f"--database takes sqlite:///, postgresql:// or mysql://, not {kind or url}"
        )
    try:
        yield from readers[kind](url)
    except (SkippedError, UnusableError):
        raise
    except Exception as error:
        raise UnusableError(f"--database cannot be read: {error}") from error


def _sqlite(url: str) -> Iterator[tuple[str, Row]]:
    path = Path(unquote(url.split(":///", 1)[-1].partition("?")[0]))
    if not path.is_file():
        raise UnusableError(f"--database: there is no file {path}")
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        for (table,) in connection.execute(query).fetchall():
            quoted = table.replace('"', '""')
            yield from _named(table, connection.execute(f'SELECT * FROM "{quoted}"'))


def _postgresql(url: str) -> Iterator[tuple[str, Row]]:
    psycopg = _driver("psycopg")
    rest = url.partition("://")[2]
    with psycopg.connect(f"postgresql://{rest}") as connection:
        query = (
            "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name)"
            " FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
            " AND table_schema = ANY (current_schemas(false))"
        )
        for (table,) in connection.execute(query).fetchall():
            yield from _named(table, connection.execute(f"SELECT * FROM {table}"))


def _mysql(url: str) -> Iterator[tuple[str, Row]]:
    pymysql = _driver("pymysql")
    parts = urlsplit(url)
    options = {
        "host": parts.hostname,
        "port": parts.port or 3306,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.strip("/")),
    }
    with closing(pymysql.connect(**options)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'")
        for table, *_ in cursor.fetchall():
            cursor.execute(f"SELECT * FROM `{table.replace('`', '``')}`")
            yield from _named(table, cursor)


def _driver(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SkippedError(f"{name} is not installed here") from error


def _named(table: str, cursor: Any) -> Iterator[tuple[str, Row]]:
    names = [column[0] for column in cursor.description]
    for values in cursor:
        yield table, dict(zip(names, values, strict=True))


def forms(text: str) -> list[bytes]:
    """Return what a text looks like as it is, in hexadecimal and in base64."""
    plain = text.encode()
    return [
        plain,
        plain.hex().encode(),
        plain.hex().upper().encode(),
        base64.b64encode(plain).rstrip(b"="),
        base64.urlsafe_b64encode(plain).rstrip(b"="),
    ]


def contains(value: Any, wanted: list[bytes]) -> bool:
    if value is None:
        return False
    stored = bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else None
    if stored is None:
        stored = str(value).encode(errors="replace")
    return any(form in stored for form in wanted)


def is_fast_hash(value: str, password: str) -> bool:
    """Whether a text is a password itself, or a digest that can be tried out fast."""
    return contains(value, forms(password)) or bool(_FAST.fullmatch(value))


@check("no text of a live token is in the database")
def tokens_at_rest(run: Run) -> str:
    url = _database(run)
    tokens = [run.log_in(run.alice), run.log_in(run.bob)]
    wanted = [form for token in tokens for form in forms(token)]
    count = 0
    for table, row in rows(url):
        count += 1
        for name, value in row.items():
            require(not contains(value, wanted), f"it is in {table}.{name}")
    return f"{count} rows"


@check("passwords are stored as slow hashes")
def passwords_at_rest(run: Run) -> str:
    person = run.alice
    kinds = set()
    for table, row in rows(_database(run)):
        if person.name not in row.values():
            continue
        for name, value in row.items():
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            if not isinstance(text, str) or not re.search("pass|pw|hash", name, re.IGNORECASE):
                continue
            require(not is_fast_hash(text, person.password), f"{table}.{name} is a fast hash")
            if _SLOW.match(text):
                kinds.add(text[:20].rstrip("$"))
    if not kinds:
        raise SkippedError("no password hash of a known kind is in the row of the user")
    return ", ".join(sorted(kinds))


def _database(run: Run) -> str:
    if run.database is None:
        raise SkippedError("takes --database URL")
    return run.database
