"""How config.py reads the text of a variable: a parser for each kind of setting.

Each takes the text and returns the value; it raises `ValidationError`, with what the
text must look like, if it cannot be used.
"""

import re
from pathlib import Path
from typing import Any

import limits
import psycopg
import redis
import sqlalchemy as sa
from marshmallow import ValidationError

BASE_DIR = Path(__file__).resolve().parent
DEFAULT_DATABASE_URL = "sqlite:///app.db"
POSTGRESQL = {"postgres", "postgresql", "postgresql+psycopg"}


def app_name(text: str) -> str:
    """Return the name of the service, which stands in headers.

    Raises:
        ValidationError: empty, too long, or not possible in a quoted header value.
    """
    if not re.fullmatch(r"[ -!#-\[\]-~]{1,64}", text) or text != text.strip():
        raise ValidationError(r'must be 1 to 64 ASCII characters, without " and \\')
    return text


def avatars(text: str) -> str:
    """Return "gravatar" or "off".

    Raises:
        ValidationError: neither of them.
    """
    if text not in {"gravatar", "off"}:
        raise ValidationError("must be gravatar or off")
    return text


def database_uri(text: str) -> str:
    """Return a database URL in the form SQLAlchemy takes.

    `postgres://` and `postgresql://` are opened with psycopg 3; they may name several
    hosts, as libpq has it: `host1:5432,host2:5432`. The path of a SQLite file is relative
    to the code, not to the working directory; without a path the database is in memory.

    Raises:
        ValidationError: neither a SQLite nor a PostgreSQL URL.
    """
    url = _parsed(text or DEFAULT_DATABASE_URL)
    if url is not None and url.drivername in POSTGRESQL:
        url = _checked(url.set(drivername="postgresql+psycopg"))
    elif url is not None and url.drivername == "sqlite":
        if is_in_memory(url):
            return "sqlite://"
        url = url.set(database=str(BASE_DIR / str(url.database)))
    else:
        raise ValidationError(
            "must look like sqlite:///app.db, postgresql://user:password@host/database "
            "or postgresql://user:password@host1:5432,host2:5432/database"
        )
    return url.render_as_string(hide_password=False)


def _parsed(text: str) -> sa.URL | None:
    """Return the URL, or `None` if it is none."""
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError:
        return None
    except ValueError:  # it takes all of `host1:5432,host2:5432` after the first colon for a port
        url = None
    if url is not None and "," not in (url.host or ""):
        return url
    scheme, _, rest = text.partition("://")
    if scheme not in POSTGRESQL:
        return None
    rest, _, query = rest.partition("?")
    try:
        found = psycopg.conninfo.conninfo_to_dict(f"postgresql://{rest}")
    except psycopg.ProgrammingError:
        return None
    parts = {"username": "user", "password": "password", "database": "dbname"}
    names: dict[str, Any] = {part: found.pop(name, None) for part, name in parts.items()}
    hosts = {name: str(value) for name, value in found.items()}
    return sa.make_url(f"postgresql://?{query}").set(**names).update_query_dict(hosts)


def _checked(url: sa.URL) -> sa.URL:
    """Return the URL of a PostgreSQL database; of several hosts, the one that can write is used.

    Raises:
        ValidationError: a host, a port or an option cannot be used.
    """
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    unknown = url.query.keys() - known
    if unknown:
        raise ValidationError(f"must have options of libpq, not {', '.join(sorted(unknown))}")
    try:
        _, options = url.get_dialect()().create_connect_args(url)
        ports = [int(port) for port in str(options.get("port", "")).split(",") if port]
    except (sa.exc.ArgumentError, ValueError):
        ports = [0]
    if not all(0 < port < 2**16 for port in ports):
        raise ValidationError("must have a port from 1 to 65535, or none, after each host")
    hosts = str(options.get("host", "")).split(",")
    if len(hosts) == 1:
        return url
    if "" in hosts:
        raise ValidationError("must have a host on both sides of each comma")
    return url.set(query={"target_session_attrs": "read-write"} | dict(url.query))


def replica_uri(text: str) -> str | None:
    """Return the URL of a PostgreSQL standby as `database_uri` does, or `None` for an empty text.

    Raises:
        ValidationError: no PostgreSQL URL, or one of several hosts: its lag is measured on
            one connection, and must be that of all.
    """
    if not text:
        return None
    url = _parsed(text)
    if url is None or url.drivername not in POSTGRESQL:
        raise ValidationError("must look like postgresql://user:password@host/database")
    url = _checked(url.set(drivername="postgresql+psycopg"))
    if "target_session_attrs" in url.query:
        raise ValidationError("must name one host, and no target_session_attrs")
    return url.render_as_string(hide_password=False)


def is_in_memory(url: sa.URL) -> bool:
    """Return whether this is a SQLite database in memory, which one process has for itself."""
    return url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}


def file_path(text: str) -> Path | None:
    """Return a path, relative to the code, or `None` for an empty text."""
    return BASE_DIR / text if text else None


def origins(text: str) -> tuple[str, ...]:
    """Return the origins (RFC 6454) between the commas; `*` alone means all.

    Raises:
        ValidationError: one of them is no origin.
    """
    found = tuple(word.strip().lower() for word in text.split(",") if word.strip())
    if found != ("*",) and not all(map(_is_origin, found)):
        raise ValidationError("must be origins such as https://app.example.com, or *")
    return found


def _is_origin(text: str) -> bool:
    """Return whether a browser may send it: in lower case, without the default port."""
    parts = re.fullmatch(r"(https?)://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(?::([1-9][0-9]{0,4}))?", text)
    if parts is None:
        return False
    default = {"http": "80", "https": "443"}[parts[1]]
    return parts[3] is None or (parts[3] != default and int(parts[3]) < 2**16)


def rate_limit(text: str) -> str:
    """Return a number per time, in the notation of the package `limits`.

    Raises:
        ValidationError: not one number per time, or zero.
    """
    try:
        items = limits.parse_many(text)
    except ValueError:
        items = []
    if len(items) != 1 or items[0].amount == 0:
        raise ValidationError("must be one number per time, such as: 20 per 5 minutes")
    return text


def redis_url(text: str) -> str | None:
    """Return the address of a Redis server or of its sentinels, or `None` for an empty text.

    Raises:
        ValidationError: not such a URL.
    """
    if text and text.startswith("redis+sentinel://"):
        host = r"[A-Za-z0-9.-]+:[0-9]{1,5}"
        if not re.fullmatch(rf"redis\+sentinel://([^@/]*@)?{host}(,{host})*/[\w.-]+", text):
            raise ValidationError("must look like redis+sentinel://host1:26379,host2:26379/service")
        return text
    try:
        if text:
            redis.Redis.from_url(text).connection_pool.make_connection()  # which does not connect
    except (ValueError, TypeError):
        raise ValidationError("must look like redis://host:6379/0") from None
    return text or None


# By these names config.py knows them.
PARSERS = (
    app_name,
    avatars,
    database_uri,
    file_path,
    origins,
    rate_limit,
    redis_url,
    replica_uri,
)
