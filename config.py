"""Every setting, read once from the environment, `.env` and `.flaskenv`.

A variable of the environment wins over `.env`, and `.env` over `.flaskenv`. A
value that cannot be used ends the process with a line that names the variable
and says what it should look like.
"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

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
    text = f"must be a whole number from {lowest} to {highest} ({unit})"
    options: Any = {"error_messages": {"invalid": text}}  # known to marshmallow, not to mypy
    number: int = env.int(name, default, validate=Range(lowest, highest, error=text), **options)
    return number


def keys(name: str) -> tuple[str, ...]:
    stripped = (key.strip() for key in env.str(name, "").split(","))
    return tuple(key for key in stripped if key)


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
    WEB_THREADS: int = whole_number("WEB_THREADS", 8, "threads per process", 1, 1024)
    # Bytes of a request's body; a larger one is answered with 413.
    MAX_CONTENT_LENGTH: int = whole_number("MAX_CONTENT_LENGTH", 65536, "bytes", 1024, 2**31)

    SQLALCHEMY_DATABASE_URI: str = env.database_uri(
        "DATABASE_URL", database_uri(DEFAULT_DATABASE_URL)
    )

    # None: made at the first start and kept in instance/secret_key, with SQLite only.
    SECRET_KEY: str | None = env.str("SECRET_KEY", "") or None
    # Former keys, comma separated; their tokens stay alive while a key is rotated.
    SECRET_KEY_FALLBACKS: tuple[str, ...] = keys("SECRET_KEY_FALLBACKS")

    TOKEN_LIFETIME_SECONDS: int = whole_number(
        "TOKEN_LIFETIME_SECONDS", 3600, "seconds", 1, 365 * 24 * 3600
    )

    # NIST SP 800-63B-4 asks for 15 characters where a password is the only
    # factor and never fewer than 8; lower it only to keep existing users.
    PASSWORD_MIN_LENGTH: int = whole_number("PASSWORD_MIN_LENGTH", 8, "characters", 1, 256)
    # Argon2id in one lane, with the parameters of the OWASP password storage cheat sheet.
    ARGON2_MEMORY_KIB: int = whole_number("ARGON2_MEMORY_KIB", 19456, "kibibytes", 8, 4 * 2**20)
    ARGON2_TIME_COST: int = whole_number("ARGON2_TIME_COST", 2, "passes", 1, 100)


try:
    env.seal()
except EnvValidationError as error:
    mistakes = cast("dict[str, list[str]]", error.error_messages)
    sys.exit("\n".join(f"{name}: {' '.join(texts)}" for name, texts in mistakes.items()))
