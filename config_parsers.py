"""How config.py reads the text of a variable: a parser for each kind of setting.

Each takes the text and returns the value; it raises `ValidationError`, with what the
text must look like, if it cannot be used.
"""

import re
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import limits
import psycopg
import redis
import sqlalchemy as sa
from email_validator import EmailNotValidError, validate_email
from marshmallow import ValidationError

BASE_DIR = Path(__file__).resolve().parent
DEFAULT_DATABASE_URL = "sqlite:///app.db"
# Events of which users are told by mail.
ALL_NOTICES = ("password_changed", "email_changed", "log_in", "token_created")
SWITCH = {
    **dict.fromkeys(("1", "on", "true", "yes"), True),
    **dict.fromkeys(("", "0", "off", "false", "no"), False),
}
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
    found = words(text.lower())
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


def ascii_text(text: str) -> str | None:
    """Return a text, or `None` if it is empty.

    Raises:
        ValidationError: it has other than ASCII characters, which SMTP's log in does not take.
    """
    if not text.isascii():
        raise ValidationError("must be ASCII")
    return text or None


def host(text: str) -> str | None:
    """Return the name or address of a host, or `None` for an empty text.

    Raises:
        ValidationError: it is neither; or it has a port, which has a setting of its own.
    """
    if text and not _is_host(text):
        raise ValidationError("must be a host, such as smtp.example.com, without a port")
    return text or None


def _is_host(text: str) -> bool:
    with suppress(ValueError):
        return bool(ip_address(text))
    labels = text.removesuffix(".").split(".")
    return all(re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", x) for x in labels)


def mail_sender(text: str) -> str | None:
    """Return the sender of mails, or `None` for an empty text.

    Raises:
        ValidationError: no e-mail address, with or without a name.
    """
    if not text:
        return None
    try:
        validate_email(
            text, check_deliverability=False, allow_display_name=True, allow_smtputf8=False
        )
    except EmailNotValidError:
        raise ValidationError("must look like API <api@example.com>, or api@example.com") from None
    return text


def mail_sent_by(text: str) -> str:
    """Return "server", also for an empty text, or "command".

    Raises:
        ValidationError: neither of them.
    """
    if text not in {"", "server", "command"}:
        raise ValidationError("must be server or command")
    return text or "server"


def notices(text: str) -> tuple[str, ...]:
    """Return some of `ALL_NOTICES`; all of them for an empty text, none for `off`.

    Raises:
        ValidationError: another word is among them.
    """
    if text in {"", "off"}:
        return () if text else ALL_NOTICES
    chosen = words(text)
    if not set(chosen) <= set(ALL_NOTICES):
        raise ValidationError(f"must be off, or some of {', '.join(ALL_NOTICES)}")
    return tuple(name for name in ALL_NOTICES if name in chosen)


def page_url(text: str) -> str | None:
    """Return the URL of a page or site, without a slash at its end; `None` for an empty text.

    Raises:
        ValidationError: no such URL.
    """
    if not text:
        return None
    parts = re.fullmatch(
        r"https?://(\[[^\]]*\]|[^/:]*)(?::([0-9]{1,5}))?(/[!$-;=A-Z_a-z~]*)?", text
    )
    name, port = ("", "0") if parts is None else (parts[1].strip("[]"), parts[2] or "443")
    if not _is_host(name) or not 0 < int(port) < 2**16:
        raise ValidationError(
            "must look like https://example.com or https://example.com/path, in ASCII"
        )
    return text.rstrip("/")


def script_name(text: str) -> str:
    """Return the path under which a proxy serves the API, without a slash at its end.

    Raises:
        ValidationError: no such path.
    """
    text = text.rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", text):
        raise ValidationError("must look like /app or /my/app")
    return text


def switch(text: str) -> bool:
    """Return whether something is on.

    Raises:
        ValidationError: neither on nor off.
    """
    if text.lower() not in SWITCH:
        raise ValidationError("must be on or off")
    return SWITCH[text.lower()]


def trusted_hosts(text: str) -> tuple[str, ...] | None:
    """Return the host names between the commas, or `None` for an empty text, which means any.

    They are in lower case and without a port. `.example.com` is that host and all its
    subdomains.

    Raises:
        ValidationError: there is none, or one that Werkzeug does not match: with an
            underscore, in another alphabet (xn--... is matched), or an IPv6 address.
    """
    label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    pattern = rf"\.?{label}(\.{label})*(:[0-9]{{1,5}})?"
    names = words(text.lower())
    if text.strip() and not (names and all(re.fullmatch(pattern, name) for name in names)):
        raise ValidationError("must be host names such as api.example.com or .example.com")
    return tuple(name.partition(":")[0] for name in names) or None


def unless_off(text: str) -> bool:
    """Return whether something is on, as for an empty text.

    Raises:
        ValidationError: neither on nor off.
    """
    return switch(text or "on")


def words(text: str) -> tuple[str, ...]:
    """Return the words between the commas, without empty ones."""
    stripped = (word.strip() for word in text.split(","))
    return tuple(word for word in stripped if word)


# By these names config.py knows them.
PARSERS = (
    app_name,
    ascii_text,
    avatars,
    database_uri,
    file_path,
    host,
    mail_sender,
    mail_sent_by,
    notices,
    origins,
    page_url,
    rate_limit,
    redis_url,
    replica_uri,
    script_name,
    switch,
    trusted_hosts,
    unless_off,
    words,
)
