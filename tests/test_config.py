"""Settings: what is read, what is refused, and the key that a SQLite application makes."""

import os
import shutil
import stat
import subprocess
import sys

import pytest
from marshmallow import ValidationError

from config import BASE_DIR, database_uri, rate_limit, redis_url, secret_key_of_instance
from tests.helpers import ROOT


def python(code, directory=ROOT, **environment):
    """Runs `code` in a process of its own, with these variables alone."""
    keep = {name: os.environ[name] for name in ("PATH", "PYTHON_DOTENV_DISABLED")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env={**keep, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_defaults_are_safe():
    code = (
        "from config import Config as c;"
        "print(c.HOST, c.PORT, c.TOKEN_LIFETIME_SECONDS, c.PASSWORD_MIN_LENGTH, c.SECRET_KEY);"
        "print(c.LOGIN_LIMIT_PER_SOURCE, c.LOGIN_LIMIT_PER_ACCOUNT, sep=', ');"
        "print(c.TRUSTED_PROXIES)"
    )
    assert python(code).stdout.splitlines() == [
        "127.0.0.1 5000 3600 8 None",
        "20 per 5 minutes, 100 per hour",
        "0",
    ]


def test_a_number_that_is_empty_is_the_default():
    code = "from config import Config as c; print(c.PORT, c.PASSWORD_HASH_CONCURRENCY > 0)"
    assert python(code, PORT="", PASSWORD_HASH_CONCURRENCY="").stdout.split() == ["5000", "True"]


@pytest.mark.parametrize("text", ["", "20", "0 per hour", "1/minute;2/hour", "many per day"])
def test_a_limit_is_one_number_per_time(text):
    with pytest.raises(ValidationError, match="20 per 5 minutes"):
        rate_limit(text)
    assert rate_limit("3 per 2 hours") == "3 per 2 hours"


@pytest.mark.parametrize("text", ["localhost", "http://x", "redis://h:port/0", "redis://h/0?x=y"])
def test_a_redis_server_is_named_by_its_url(text):
    with pytest.raises(ValidationError, match="redis://host:6379/0"):
        redis_url(text)
    assert redis_url("rediss://user:password@host/1") == "rediss://user:password@host/1"
    assert redis_url("") is None


def test_the_processes_share_the_cores_for_hashing():
    code = "from config import Config as c; print(c.PASSWORD_HASH_CONCURRENCY)"
    assert python(code, WEB_CONCURRENCY="1000").stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("PORT", "http", "whole number from 0 to 65535"),
        ("PORT", "65536", "whole number from 0 to 65535"),
        ("LOGIN_LIMIT_PER_SOURCE", "20", "20 per 5 minutes"),
        ("LOGIN_LIMIT_PER_SOURCE", "0 per hour", "20 per 5 minutes"),
        ("LOGIN_LIMIT_PER_ACCOUNT", "10/minute;100/hour", "20 per 5 minutes"),
        ("CORS_ORIGINS", "app.example.com", "https://app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com/", "https://app.example.com"),
        ("CORS_ORIGINS", "https://.*", "https://app.example.com"),
        ("CORS_ORIGINS", "*, https://app.example.com", "https://app.example.com"),
        ("CORS_ORIGINS", "null", "https://app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com:443", "https://app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com:65536", "https://app.example.com"),
        ("REDIS_URL", "localhost:6379", "redis://host:6379/0"),
        ("REDIS_URL", "redis://host/0?foo=bar", "redis://host:6379/0"),
        ("TRUSTED_PROXIES", "10.0.0.1", "proxies"),
        ("PASSWORD_HASH_CONCURRENCY", "0", "hashes at once"),
        ("WEB_THREADS", "0", "threads per process"),
        ("TOKEN_LIFETIME_SECONDS", "1h", "seconds"),
        ("TOKEN_LIFETIME_SECONDS", "0", "seconds"),
        ("PASSWORD_MIN_LENGTH", "257", "characters"),
        ("MAX_CONTENT_LENGTH", "64K", "bytes"),
        ("DATABASE_URL", "app.db", "sqlite:///app.db"),
        ("DATABASE_URL", "mysql://localhost/app", "postgresql://"),
        ("DATABASE_URL", "postgresql+psycopg2://localhost/app", "postgresql://"),
    ],
)
def test_a_value_that_cannot_be_used_stops_the_start_and_is_named(name, value, hint):
    process = python("import microblog_api", **{name: value})
    assert process.returncode == 1
    assert process.stderr.startswith(f"{name}: must ")
    assert hint in process.stderr
    assert "Traceback" not in process.stderr


def test_all_mistakes_are_told_at_once():
    process = python("import config", PORT="x", WEB_THREADS="x")
    assert process.stderr.count("must be a whole number") == 2


def test_another_database_than_sqlite_refuses_to_start_without_a_key():
    process = python("import microblog_api", DATABASE_URL="postgresql://localhost/app")
    assert process.returncode == 1
    assert process.stderr.startswith("SECRET_KEY: must be set")
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("", f"sqlite:///{BASE_DIR}/app.db"),
        ("sqlite:///app.db", f"sqlite:///{BASE_DIR}/app.db"),
        ("sqlite:////data/app.db", "sqlite:////data/app.db"),
        ("postgres://u:p%40@h:5433/d", "postgresql+psycopg://u:p%40@h:5433/d"),
        ("postgresql://h/d?sslmode=require", "postgresql+psycopg://h/d?sslmode=require"),
    ],
)
def test_database_urls(text, uri):
    assert database_uri(text) == uri


@pytest.mark.parametrize(
    "text",
    [
        "app.db",
        "mysql://h/d",
        "sqlite+aiosqlite://",
        "postgresql",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_other_databases_are_refused(text):
    with pytest.raises(ValidationError, match="must look like"):
        database_uri(text)


def test_only_sqlite_makes_its_own_key(tmp_path):
    with pytest.raises(SystemExit, match="SECRET_KEY: must be set"):
        secret_key_of_instance("postgresql://h/d", str(tmp_path / "instance"))
    assert not (tmp_path / "instance").exists()


def test_former_keys_are_a_list():
    code = "from config import Config; print(Config.SECRET_KEY_FALLBACKS)"
    assert python(code, SECRET_KEY_FALLBACKS="one, two,,").stdout == "('one', 'two')\n"


def test_an_empty_host_is_not_every_host():
    assert python("from config import Config; print(Config.HOST)", HOST="").stdout == "127.0.0.1\n"


def test_a_key_is_made_once_for_its_owner_alone(tmp_path):
    instance = tmp_path / "instance"
    key = secret_key_of_instance("sqlite://", str(instance))
    assert len(key) >= 43  # 256 bits in base64
    assert secret_key_of_instance("sqlite://", str(instance)) == key
    assert [file.name for file in instance.iterdir()] == ["secret_key"]
    assert stat.S_IMODE((instance / "secret_key").stat().st_mode) == 0o600


def test_processes_that_start_at_once_agree_on_a_key(tmp_path):
    code = f"import config; print(config.secret_key_of_instance('sqlite://', {str(tmp_path)!r}))"
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    assert len({process.communicate()[0] for process in processes}) == 1


def test_a_key_that_cannot_be_kept_stops_the_start(tmp_path):
    (tmp_path / "instance").touch()  # a file where the folder should be
    with pytest.raises(SystemExit, match="instance/secret_key: cannot be made or read"):
        secret_key_of_instance("sqlite://", str(tmp_path / "instance"))


def test_the_file_env_is_read_and_the_environment_wins(tmp_path):
    shutil.copy(ROOT / "config.py", tmp_path)
    (tmp_path / ".env").write_text("PORT=6000\nWEB_THREADS=3\n")
    code = "from config import Config as c; print(c.PORT, c.WEB_THREADS)"
    process = python(code, directory=tmp_path, PYTHON_DOTENV_DISABLED="0", PORT="7000")
    assert process.stdout == "7000 3\n"


def test_an_empty_key_file_stops_the_start(tmp_path):
    (tmp_path / "secret_key").touch()
    with pytest.raises(SystemExit, match="is empty"):
        secret_key_of_instance("sqlite://", str(tmp_path))
