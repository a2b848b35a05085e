"""Every setting, read once from the environment, `.env` and `.flaskenv`.

A variable of the environment wins over `.env`, and `.env` over `.flaskenv`. Importing
this module never fails because of a value: `Config.check()` reports the invalid ones.
config_parsers.py has the formats.
"""

import difflib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from dotenv import load_dotenv
from environs import Env, EnvValidationError
from marshmallow.validate import Range

from config_parsers import BASE_DIR, DEFAULT_DATABASE_URL, PARSERS, database_uri, file_path
from ownership import give_to_owner_of_folder, make_folder

basedir = str(BASE_DIR)  # the tutorial's name

D = TypeVar("D", int, None)

load_dotenv(BASE_DIR / ".env")
load_dotenv(BASE_DIR / ".flaskenv")

# What may stand in a file, for secrets of systemd, Docker and Kubernetes: NAME_FILE is its path.
IN_FILES = frozenset(
    {
        "DATABASE_URL",
        "DATABASE_REPLICA_URL",
        "SECRET_KEY",
        "SECRET_KEY_FALLBACKS",
        "MAIL_PASSWORD",
        "REDIS_URL",
    }
)


class EnvOrFile(Env):
    # environs.FileAwareEnv ends the import if a file cannot be read.
    def _get_value(self, env_key: str, default: Any) -> Any:
        """Return the variable, or the contents of the file that `env_key`_FILE names."""
        name = f"{env_key}_FILE"
        path = file_path(os.environ.get(name, "")) if env_key in IN_FILES else None
        if path is None:
            return super()._get_value(env_key, default)
        if os.environ.get(env_key):
            self._errors[name].append(f"is set, and so is {env_key}; set one of them")
            return default
        try:
            text = path.read_text().strip()
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text"
            self._errors[name].append(f"cannot read {path}: {reason}")
            return default
        if not text:
            self._errors[name].append(f"{path} is empty")
        return text or default


env = EnvOrFile(eager=False)  # collects every mistake; Config.check() reports them together
for parser in PARSERS:
    env.add_parser(parser.__name__, parser)

# How similar to a setting a name must be to be reported as a misspelling, from 0 to 1.
# S3_SECRET_KEY and SECRET_KEY, which are not the same thing, have 0.87.
MISSPELLED = 0.9


class ConfigError(ValueError):
    """Invalid settings: a line for each, which begins with its name."""


def whole_number(name: str, default: D, unit: str, lowest: int, highest: int) -> int | D:
    if env.str(name, "") == "":
        return default
    text = f"must be a whole number from {lowest} to {highest} ({unit})"
    options: Any = {"error_messages": {"invalid": text}}  # known to marshmallow, not to mypy
    number: int | D = env.int(name, default, validate=Range(lowest, highest, error=text), **options)
    return number


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_url(host: str, port: int, certificate: Path | None) -> str:
    """Return where this server listens, for somebody on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  not to listen on
    name = f"[{shown}]" if ":" in shown else shown
    return f"{'https' if certificate else 'http'}://{name}:{port}"


def secret_key_of_instance(uri: str, instance_path: str) -> str:
    """Return the key that is generated at the first start with SQLite.

    It is stored in `secret_key` in the instance folder, readable only by its owner.

    Raises:
        ConfigError: the database is not SQLite (all machines need the same key, so
            it must be set), or the key cannot be stored or read.
    """
    if sa.make_url(uri).get_backend_name() != "sqlite":
        raise ConfigError(
            "SECRET_KEY: must be set with this database, the same on every machine; make one with\n"
            "    python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
        )
    path = Path(instance_path) / "secret_key"
    try:
        if not path.exists():
            _make_secret_key(path)
        key = path.read_text().strip()  # an editor may have added a line break
    except OSError as error:
        text = f"{path}: cannot be made or read: {error.strerror}; or set SECRET_KEY"
        raise ConfigError(text) from None
    except UnicodeError:
        raise ConfigError(f"{path}: is not a text; restore it from a copy") from None
    if not key:
        raise ConfigError(f"{path}: is empty; delete it to have a new key made")
    return key


def _make_secret_key(path: Path) -> None:
    make_folder(path.parent)
    # Not by the number of the process, which two containers may have at once.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    # Written before it is given away: root must not write through a link in its place.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(secrets.token_urlsafe(48))
            opened.flush()
            give_to_owner_of_folder(draft, descriptor)
        # If several processes start at once, all use the key of the first.
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


class Config:
    # Title of the API, realm of its challenges, refused as a password.
    APP_NAME: str = env.app_name("APP_NAME", "Microblog API")

    # Serving; read by server.py.
    HOST: str = env.str("HOST", "") or "127.0.0.1"
    PORT: int = whole_number("PORT", 5000, "TCP port; 0 is any free one", 0, 65535)
    WEB_CONCURRENCY: int = whole_number("WEB_CONCURRENCY", 1, "processes", 1, 1024)
    WEB_THREADS: int = whole_number("WEB_THREADS", 64, "threads per process", 1, 1024)
    # How long a server that is told to stop says at /readyz that it does, and still serves.
    DRAIN_SECONDS: int = whole_number("DRAIN_SECONDS", 5, "seconds", 0, 600)
    # Paths of PEM files; both or neither. With them the server speaks TLS.
    TLS_CERTIFICATE: Path | None = env.file_path("TLS_CERTIFICATE", None)
    TLS_KEY: Path | None = env.file_path("TLS_KEY", None)
    # Where Prometheus is answered, without a password and without TLS; None: nowhere.
    METRICS_HOST: str = env.str("METRICS_HOST", "") or "127.0.0.1"
    METRICS_PORT: int | None = whole_number("METRICS_PORT", None, "TCP port", 1, 65535)
    # Number of proxies in front whose X-Forwarded-For and -Proto are trusted.
    TRUSTED_PROXIES: int = whole_number("TRUSTED_PROXIES", 0, "proxies, one behind another", 0, 9)
    # Path under which a proxy serves the API, as in /app; empty for none.
    SCRIPT_NAME: str = env.script_name("SCRIPT_NAME", "")
    # Accepted values of the Host header; None accepts any.
    TRUSTED_HOSTS: tuple[str, ...] | None = env.trusted_hosts("TRUSTED_HOSTS", "")
    # Largest body of a request, in bytes; larger ones get 413.
    MAX_CONTENT_LENGTH: int = whole_number("MAX_CONTENT_LENGTH", 65536, "bytes", 1024, 2**31)

    # Origins whose pages may call from a browser, as in https://app.example.com.
    CORS_ORIGINS: tuple[str, ...] = env.origins("CORS_ORIGINS", "")

    # Where users' pictures come from: "gravatar", or "off".
    AVATARS: str = env.avatars("AVATARS", "gravatar")

    SQLALCHEMY_DATABASE_URI: str = env.database_uri(
        "DATABASE_URL", database_uri(DEFAULT_DATABASE_URL)
    )

    # A standby of that database, which answers pages and lists; None: the primary does.
    DATABASE_REPLICA_URL: str | None = env.replica_uri("DATABASE_REPLICA_URL", None)

    # None: generated at the first start and stored in instance/secret_key (SQLite only).
    SECRET_KEY: str | None = env.str("SECRET_KEY", "") or None
    # Former keys, whose login tokens still work while the key is rotated.
    SECRET_KEY_FALLBACKS: tuple[str, ...] = env.words("SECRET_KEY_FALLBACKS", "")

    TOKEN_LIFETIME_SECONDS: int = whole_number(
        "TOKEN_LIFETIME_SECONDS", 3600, "seconds", 1, 365 * 24 * 3600
    )
    LOGIN_MAX_AGE_DAYS: int = whole_number("LOGIN_MAX_AGE_DAYS", 30, "days", 1, 3650)
    SESSIONS_PER_USER: int = whole_number(
        "SESSIONS_PER_USER", 50, "live log ins of devices of one user", 1, 1000
    )
    # RFC 9470; by default, the lifetime of a login token that is not renewed.
    FRESH_LOGIN_SECONDS: int = whole_number(
        "FRESH_LOGIN_SECONDS", 3600, "seconds", 1, 365 * 24 * 3600
    )
    ACCESS_TOKENS_PER_USER: int = whole_number(
        "ACCESS_TOKENS_PER_USER", 50, "live access tokens of one user", 1, 1000
    )
    # The largest limit that an access token may have for its requests.
    ACCESS_TOKEN_LIMIT: str = env.rate_limit("ACCESS_TOKEN_LIMIT", "6000 per minute")

    # NIST SP 800-63B-4 requires 15 characters where a password is the only factor, and
    # never fewer than 8; lower it only to keep existing users.
    PASSWORD_MIN_LENGTH: int = whole_number("PASSWORD_MIN_LENGTH", 8, "characters", 1, 256)
    # Whether common passwords, names and one repeated character are refused as well.
    PASSWORD_BLOCKLIST: bool = env.unless_off("PASSWORD_BLOCKLIST", "")
    # Argon2id in one lane, with the parameters of the OWASP password storage cheat sheet.
    ARGON2_MEMORY_KIB: int = whole_number("ARGON2_MEMORY_KIB", 19456, "kibibytes", 8, 4 * 2**20)
    ARGON2_TIME_COST: int = whole_number("ARGON2_TIME_COST", 2, "passes", 1, 100)
    PASSWORD_HASH_CONCURRENCY: int = whole_number(
        "PASSWORD_HASH_CONCURRENCY",
        max(1, cores() // (WEB_CONCURRENCY or 1)),  # None if it is wrong
        "hashes at once in each process",
        1,
        1024,
    )

    # Whether addresses at hosts without a dot (alice@localhost), and at reserved domains such
    # as .local, are accepted.
    EMAIL_ALLOW_LOCAL: bool = env.switch("EMAIL_ALLOW_LOCAL", "")

    # Limits on wrong passwords; app/auth/password_check.py says what each counts.
    LOGIN_LIMIT_PER_SOURCE: str = env.rate_limit("LOGIN_LIMIT_PER_SOURCE", "20 per 5 minutes")
    LOGIN_LIMIT_PER_ACCOUNT: str = env.rate_limit("LOGIN_LIMIT_PER_ACCOUNT", "100 per hour")
    LOGIN_LIMIT_PER_ADDRESS: str = env.rate_limit("LOGIN_LIMIT_PER_ADDRESS", "100 per 5 minutes")
    REGISTRATION_LIMIT_PER_SOURCE: str = env.rate_limit(
        "REGISTRATION_LIMIT_PER_SOURCE", "500 per hour"
    )
    # Limits on mails that strangers can cause: links to set a password or to verify an address.
    MAIL_LIMIT_PER_SOURCE: str = env.rate_limit("MAIL_LIMIT_PER_SOURCE", "20 per hour")
    MAIL_LIMIT_PER_RECIPIENT: str = env.rate_limit("MAIL_LIMIT_PER_RECIPIENT", "5 per hour")
    # Where all limits are counted; None: in each process.
    REDIS_URL: str | None = env.redis_url("REDIS_URL", None)

    # None: mails are written to files in instance/mail.
    MAIL_SERVER: str | None = env.host("MAIL_SERVER", "")
    MAIL_USE_TLS: bool = env.switch("MAIL_USE_TLS", "")  # STARTTLS
    MAIL_USE_SSL: bool = env.switch("MAIL_USE_SSL", "")  # TLS from the first byte
    MAIL_PORT: int = whole_number(
        "MAIL_PORT", 465 if MAIL_USE_SSL else 587 if MAIL_USE_TLS else 25, "TCP port", 1, 65535
    )
    MAIL_USERNAME: str | None = env.ascii_text("MAIL_USERNAME", "")
    MAIL_PASSWORD: str | None = env.ascii_text("MAIL_PASSWORD", "")
    # Of all mails; None: no-reply at the host of SITE_URL.
    MAIL_SENDER: str | None = env.mail_sender("MAIL_SENDER", None)
    # Who sends: "server", a thread of each process, or "command", `flask mail send`.
    MAIL_SENT_BY: str = env.mail_sent_by("MAIL_SENT_BY", "server")
    # What users are told of.
    NOTICES: tuple[str, ...] = env.notices("NOTICES", "")
    # How links in mails begin, whatever the Host of a request.
    SITE_URL: str = (
        env.page_url("SITE_URL", None) or f"{own_url(HOST, PORT, TLS_CERTIFICATE)}{SCRIPT_NAME}"
    )
    # Pages that such links open; None: those of this server, /reset and /verify.
    RESET_URL: str | None = env.page_url("RESET_URL", None)
    VERIFY_URL: str | None = env.page_url("VERIFY_URL", None)
    # OWASP, Forgot Password: "an appropriate period"; NIST SP 800-63B-4, 4.2.1.2: 24 hours.
    RESET_LINK_SECONDS: int = whole_number("RESET_LINK_SECONDS", 3600, "seconds", 60, 24 * 3600)
    VERIFY_LINK_SECONDS: int = whole_number(
        "VERIFY_LINK_SECONDS", 24 * 3600, "seconds", 60, 30 * 24 * 3600
    )
    # Whether a user must verify the address before anything else.
    REQUIRE_VERIFIED_EMAIL: bool = env.switch("REQUIRE_VERIFIED_EMAIL", "")

    @staticmethod
    def check() -> None:
        """Check that every variable could be read.

        Raises:
            ConfigError: names those that could not, and what each must look like.
        """
        if mistakes:
            raise ConfigError("\n".join(f"{name}: {text}" for name, text in mistakes.items()))


def misspelled() -> dict[str, str]:
    """Return the variables that look like a misspelled setting, with the name of the setting.

    A variable that is merely unknown is not among them.
    """
    known = SETTINGS | {f"{name}_FILE" for name in IN_FILES}
    no_files = {f"{name}_FILE": name for name in SETTINGS - IN_FILES}
    similar = {
        name: [no_files[name]]
        if name in no_files
        else difflib.get_close_matches(name, known, n=1, cutoff=MISSPELLED)
        for name in os.environ.keys() - known
    }
    return {name: found[0] for name, found in sorted(similar.items()) if found}


SETTINGS = frozenset(name for name in vars(Config) if name.isupper()) ^ {
    "SQLALCHEMY_DATABASE_URI",  # what Flask-SQLAlchemy reads;
    "DATABASE_URL",  # its variable has the name that is usual elsewhere
}
mistakes: dict[str, str] = {}
try:
    env.seal()
except EnvValidationError as error:
    texts = cast("dict[str, list[str]]", error.error_messages)
    mistakes = {name: " ".join(several) for name, several in texts.items()}
if Config.DATABASE_REPLICA_URL and Config.SQLALCHEMY_DATABASE_URI.startswith("sqlite"):
    mistakes["DATABASE_REPLICA_URL"] = "must not be set with SQLite: DATABASE_URL is no PostgreSQL"
if Config.MAIL_USE_TLS and Config.MAIL_USE_SSL:
    mistakes["MAIL_USE_SSL"] = "must not be set with MAIL_USE_TLS, which is STARTTLS; use one"
if Config.MAIL_PASSWORD and not (Config.MAIL_USE_TLS or Config.MAIL_USE_SSL):
    mistakes.setdefault("MAIL_PASSWORD", "needs MAIL_USE_TLS or MAIL_USE_SSL: it is a secret")
if bool(Config.MAIL_USERNAME) != bool(Config.MAIL_PASSWORD):
    mistakes.setdefault("MAIL_USERNAME", "set both MAIL_USERNAME and MAIL_PASSWORD, or neither")
if Config.MAIL_USERNAME and not Config.MAIL_SERVER:
    mistakes.setdefault("MAIL_SERVER", "must be set with MAIL_USERNAME")
if Config.MAIL_SERVER and not os.environ.get("SITE_URL"):
    mistakes.setdefault("SITE_URL", "must be set with MAIL_SERVER: links in mails begin with it")
