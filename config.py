"""Every setting, read once from the environment, `.env` and `.flaskenv`.

A variable of the environment wins over `.env`, and `.env` over `.flaskenv`. A
value that cannot be used ends the process with a line that names the variable
and says what it should look like.
"""

import os
import re
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import limits
import redis
import sqlalchemy as sa
from dotenv import load_dotenv
from environs import Env, EnvValidationError
from marshmallow import ValidationError
from marshmallow.validate import Range

BASE_DIR = Path(__file__).resolve().parent

load_dotenv(BASE_DIR / ".env")
load_dotenv(BASE_DIR / ".flaskenv")

env = Env(eager=False)  # collects every mistake; seal() below reports them together


DEFAULT_DATABASE_URL = "sqlite:///app.db"


@env.parser_for("database_uri")
def database_uri(text: str) -> str:
    """A database URL in the form SQLAlchemy takes.

    `postgres://` and `postgresql://` are opened with psycopg 3; the path of a
    SQLite file is relative to the code, not to the working directory.

    Raises:
        ValidationError: neither a SQLite nor a PostgreSQL URL.
    """
    try:
        url = sa.make_url(text or DEFAULT_DATABASE_URL)
    except sa.exc.ArgumentError:
        url = None
    if url is not None and url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        url = url.set(drivername="postgresql+psycopg")
    elif url is not None and url.drivername == "sqlite" and url.database not in {None, ":memory:"}:
        # Not in memory: every process would have a database of its own.
        url = url.set(database=str(BASE_DIR / url.database))
    else:
        raise ValidationError(
            "must look like sqlite:///app.db or postgresql://user:password@host/database"
        )
    return url.render_as_string(hide_password=False)


def whole_number(name: str, default: int, unit: str, lowest: int, highest: int) -> int:
    if env.str(name, "") == "":
        return default
    text = f"must be a whole number from {lowest} to {highest} ({unit})"
    options: Any = {"error_messages": {"invalid": text}}  # known to marshmallow, not to mypy
    number: int = env.int(name, default, validate=Range(lowest, highest, error=text), **options)
    return number


def words(name: str) -> tuple[str, ...]:
    """What stands between the commas of a variable; empty ones are left out."""
    stripped = (word.strip() for word in env.str(name, "").split(","))
    return tuple(word for word in stripped if word)


@env.parser_for("origins")
def origins(text: str) -> tuple[str, ...]:
    """What stands between the commas: origins (RFC 6454), or `*` alone for all of them.

    Raises:
        ValidationError: something there is none.
    """
    found = tuple(word.strip().lower() for word in text.split(",") if word.strip())
    if found != ("*",) and not all(map(_is_origin, found)):
        raise ValidationError("must be origins such as https://app.example.com, or *")
    return found


def _is_origin(text: str) -> bool:
    """Whether a browser may send it: in lower case, without a port that is the default."""
    parts = re.fullmatch(r"(https?)://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(?::([1-9][0-9]{0,4}))?", text)
    if parts is None:
        return False
    default = {"http": "80", "https": "443"}[parts[1]]
    return parts[3] is None or (parts[3] != default and int(parts[3]) < 2**16)


@env.parser_for("rate_limit")
def rate_limit(text: str) -> str:
    """A number per time, in the notation of the package `limits`.

    Raises:
        ValidationError: it is none, or zero.
    """
    try:
        items = limits.parse_many(text)
    except ValueError:
        items = []
    if len(items) != 1 or items[0].amount == 0:
        raise ValidationError("must be one number per time, such as: 20 per 5 minutes")
    return text


@env.parser_for("redis_url")
def redis_url(text: str) -> str | None:
    """The address of a Redis server, or `None` for an empty text.

    Raises:
        ValidationError: it is none.
    """
    try:
        if text:
            redis.Redis.from_url(text).connection_pool.make_connection()  # which does not connect
    except (ValueError, TypeError):
        raise ValidationError("must look like redis://host:6379/0") from None
    return text or None


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def secret_key_of_instance(uri: str, instance_path: str) -> str:
    """The key a SQLite application makes for itself at its first start.

    Kept in `secret_key` in the instance folder, for its owner's eyes only.

    Raises:
        SystemExit: the database is not SQLite (others share it, so its key is
            set by hand, the same for everyone), or there is no key to be had.
    """
    if sa.make_url(uri).get_backend_name() != "sqlite":
        sys.exit(
            "SECRET_KEY: must be set with this database, the same on every machine; make one with\n"
            "    python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
        )
    path = Path(instance_path) / "secret_key"
    try:
        if not path.exists():
            _make_secret_key(path)
        key = path.read_text()
    except OSError as error:
        sys.exit(f"{path}: cannot be made or read: {error.strerror}; or set SECRET_KEY")
    if not key:
        sys.exit(f"{path}: is empty; delete it to have a new key made")
    return key


def _make_secret_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    try:
        draft.write_text(secrets.token_urlsafe(48))
        # Of several processes that start at once, the first one's key is everyone's.
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


class Config:
    # Serving; read by gunicorn.conf.py.
    HOST: str = env.str("HOST", "") or "127.0.0.1"
    PORT: int = whole_number("PORT", 5000, "TCP port; 0 is any free one", 0, 65535)
    WEB_CONCURRENCY: int = whole_number("WEB_CONCURRENCY", 1, "processes", 1, 1024)
    WEB_THREADS: int = whole_number("WEB_THREADS", 64, "threads per process", 1, 1024)
    # Proxies in front that add to X-Forwarded-For; what the last of them says is believed.
    TRUSTED_PROXIES: int = whole_number("TRUSTED_PROXIES", 0, "proxies, one behind another", 0, 9)
    # Values of the Host header that are answered; None is any.
    TRUSTED_HOSTS: tuple[str, ...] | None = words("TRUSTED_HOSTS") or None
    # Bytes of a request's body; a larger one is answered with 413.
    MAX_CONTENT_LENGTH: int = whole_number("MAX_CONTENT_LENGTH", 65536, "bytes", 1024, 2**31)

    # Whose pages may call from a browser: origins, as in https://app.example.com.
    CORS_ORIGINS: tuple[str, ...] = env.origins("CORS_ORIGINS", "")

    SQLALCHEMY_DATABASE_URI: str = env.database_uri(
        "DATABASE_URL", database_uri(DEFAULT_DATABASE_URL)
    )

    # None: made at the first start and kept in instance/secret_key, with SQLite only.
    SECRET_KEY: str | None = env.str("SECRET_KEY", "") or None
    # Former keys, comma separated; their tokens stay alive while a key is rotated.
    SECRET_KEY_FALLBACKS: tuple[str, ...] = words("SECRET_KEY_FALLBACKS")

    TOKEN_LIFETIME_SECONDS: int = whole_number(
        "TOKEN_LIFETIME_SECONDS", 3600, "seconds", 1, 365 * 24 * 3600
    )
    LOGIN_MAX_AGE_DAYS: int = whole_number("LOGIN_MAX_AGE_DAYS", 30, "days", 1, 3650)
    ACCESS_TOKENS_PER_USER: int = whole_number(
        "ACCESS_TOKENS_PER_USER", 50, "live access tokens of one user", 1, 1000
    )

    # NIST SP 800-63B-4 asks for 15 characters where a password is the only
    # factor and never fewer than 8; lower it only to keep existing users.
    PASSWORD_MIN_LENGTH: int = whole_number("PASSWORD_MIN_LENGTH", 8, "characters", 1, 256)
    # Argon2id in one lane, with the parameters of the OWASP password storage cheat sheet.
    ARGON2_MEMORY_KIB: int = whole_number("ARGON2_MEMORY_KIB", 19456, "kibibytes", 8, 4 * 2**20)
    ARGON2_TIME_COST: int = whole_number("ARGON2_TIME_COST", 2, "passes", 1, 100)
    PASSWORD_HASH_CONCURRENCY: int = whole_number(
        "PASSWORD_HASH_CONCURRENCY",
        max(1, cores() // WEB_CONCURRENCY),
        "hashes at once in each process",
        1,
        1024,
    )

    # Wrong passwords; app/throttle.py has what each of them counts.
    LOGIN_LIMIT_PER_SOURCE: str = env.rate_limit("LOGIN_LIMIT_PER_SOURCE", "20 per 5 minutes")
    LOGIN_LIMIT_PER_ACCOUNT: str = env.rate_limit("LOGIN_LIMIT_PER_ACCOUNT", "100 per hour")
    # Where they are counted; None is each process by itself.
    REDIS_URL: str | None = env.redis_url("REDIS_URL", None)


try:
    env.seal()
except EnvValidationError as error:
    mistakes = cast("dict[str, list[str]]", error.error_messages)
    sys.exit("\n".join(f"{name}: {' '.join(texts)}" for name, texts in mistakes.items()))
