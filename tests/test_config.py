"""Settings: defaults, validation, and the secret key that is generated on SQLite."""

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
import sqlalchemy as sa
from marshmallow import ValidationError

import config_parsers as parsers
from app import create_app
from config import BASE_DIR, IN_FILES, SETTINGS, ConfigError, misspelled, secret_key_of_instance
from config_parsers import database_uri, rate_limit, redis_url
from tests.helpers import ROOT


def python(code, directory=ROOT, **environment):
    """Run `code` in a new process, with only these environment variables."""
    keep = {name: os.environ[name] for name in ("PATH", "PYTHON_DOTENV_DISABLED")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env={**keep, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_folder_of_the_project_has_the_name_of_the_tutorial():
    code = "import os, config; print(open(os.path.join(config.basedir, '.flaskenv')).read())"
    assert "FLASK_APP" in python(code).stdout


@pytest.mark.slow
def test_the_defaults_are_safe():
    code = (
        "from config import Config as c;"
        "print(c.HOST, c.PORT, c.TOKEN_LIFETIME_SECONDS, c.PASSWORD_MIN_LENGTH, c.SECRET_KEY);"
        "print(c.LOGIN_LIMIT_PER_SOURCE, c.LOGIN_LIMIT_PER_ACCOUNT, sep=', ');"
        "print(c.TRUSTED_PROXIES);"
        "print(c.METRICS_HOST, c.METRICS_PORT)"
    )
    assert python(code).stdout.splitlines() == [
        "127.0.0.1 5000 3600 8 None",
        "20 per 5 minutes, 100 per hour",
        "0",
        "127.0.0.1 None",
    ]


@pytest.mark.slow
def test_an_empty_number_means_the_default():
    code = (
        "from config import Config as c;"
        "print(c.PORT, c.PASSWORD_HASH_CONCURRENCY > 0, c.METRICS_PORT)"
    )
    settings = {"PORT": "", "PASSWORD_HASH_CONCURRENCY": "", "METRICS_PORT": ""}
    assert python(code, **settings).stdout.split() == ["5000", "True", "None"]


@pytest.mark.parametrize("text", ["", "20", "0 per hour", "1/minute;2/hour", "many per day"])
def test_a_rate_limit_must_be_one_number_per_period(text):
    with pytest.raises(ValidationError, match="20 per 5 minutes"):
        rate_limit(text)
    assert rate_limit("3 per 2 hours") == "3 per 2 hours"


@pytest.mark.parametrize("text", ["localhost", "http://x", "redis://h:port/0", "redis://h/0?x=y"])
def test_an_invalid_redis_url_is_refused(text):
    with pytest.raises(ValidationError, match="redis://host:6379/0"):
        redis_url(text)
    assert redis_url("rediss://user:password@host/1") == "rediss://user:password@host/1"
    assert redis_url("") is None


@pytest.mark.parametrize("text", ["//h:1", "//h/x", "//h:1,/x", "//h:1,h:x/x", "//", "//h:1/x?y=z"])
def test_an_invalid_url_of_sentinels_is_refused(text):
    with pytest.raises(ValidationError, match=r"redis\+sentinel://host1:26379,host2:26379/service"):
        redis_url(f"redis+sentinel:{text}")
    url = "redis+sentinel://user:password@h1:26379,h2:26379/microblog"
    assert redis_url(url) == url


@pytest.mark.slow
def test_the_processes_share_the_cores_for_hashing():
    code = "from config import Config as c; print(c.PASSWORD_HASH_CONCURRENCY)"
    assert python(code, WEB_CONCURRENCY="1000").stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("PORT", "http", "whole number from 0 to 65535"),
        ("PORT", "65536", "whole number from 0 to 65535"),
        ("METRICS_PORT", "0", "whole number from 1 to 65535"),
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
        ("TRUSTED_HOSTS", "*", "api.example.com or .example.com"),
        ("TRUSTED_HOSTS", "*.example.com", "api.example.com or .example.com"),
        ("TRUSTED_HOSTS", "https://api.example.com", "api.example.com or .example.com"),
        ("TRUSTED_HOSTS", "api.example.com, api.example.com/app", "api.example.com or"),
        ("TRUSTED_HOSTS", "::1", "api.example.com or .example.com"),
        ("TRUSTED_HOSTS", "my_api", "api.example.com or .example.com"),
        ("TRUSTED_HOSTS", "a" * 64 + ".com", "api.example.com or .example.com"),
        ("TRUSTED_HOSTS", "..com", "api.example.com or .example.com"),
        ("TRUSTED_HOSTS", "bücher.example", "api.example.com or .example.com"),
        ("TRUSTED_HOSTS", ",", "api.example.com or .example.com"),
        ("TRUSTED_HOSTS", "api.example.com:http", "api.example.com or .example.com"),
        ("PASSWORD_HASH_CONCURRENCY", "0", "hashes at once"),
        ("WEB_THREADS", "0", "threads per process"),
        ("TOKEN_LIFETIME_SECONDS", "1h", "seconds"),
        ("TOKEN_LIFETIME_SECONDS", "0", "seconds"),
        ("PASSWORD_MIN_LENGTH", "257", "characters"),
        ("MAX_CONTENT_LENGTH", "64K", "bytes"),
        ("DATABASE_URL", "app.db", "sqlite:///app.db"),
        ("DATABASE_URL", "mysql://localhost/app", "postgresql://"),
        ("DATABASE_URL", "postgresql+psycopg2://localhost/app", "postgresql://"),
        ("DATABASE_URL", "postgresql://a:1,[::1/app", "postgresql://"),
        ("DATABASE_URL", "mysql://a:1,b:2/app", "postgresql://"),
        ("DATABASE_URL", "postgresql://localhost:x/app", "port from 1 to 65535"),
        ("DATABASE_URL", "postgresql://localhost:65536/app", "port from 1 to 65535"),
        ("DATABASE_URL", "postgresql://a:x,b:2/app", "port from 1 to 65535"),
        ("DATABASE_URL", "postgresql:///app?host=a,b&port=1", "after each host"),
        ("DATABASE_URL", "postgresql://a:1,/app", "both sides of each comma"),
        ("DATABASE_URL", "postgresql://localhost/app?prepare_threshold=0", "prepare_threshold"),
        ("DATABASE_REPLICA_URL", "sqlite:///app.db", "postgresql://"),
        ("DATABASE_REPLICA_URL", "localhost", "postgresql://"),
        ("DATABASE_REPLICA_URL", "postgresql://a,b/app", "one host"),
        ("DATABASE_REPLICA_URL", "postgresql://localhost:x/app", "port from 1 to 65535"),
        ("DATABASE_REPLICA_URL", "postgresql://localhost/app", "must not be set with SQLite"),
    ],
)
def test_an_invalid_setting_is_named_with_what_it_must_look_like(monkeypatch, name, value, hint):
    monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("config_read_again", ROOT / "config.py")
    config = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(config)
    with pytest.raises(config.ConfigError) as error:
        config.Config.check()
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{name}: must ")
    assert hint in line


@pytest.mark.slow
def test_all_invalid_settings_stop_the_start_and_are_reported_at_once():
    process = python("import microblog_api", PORT="x", WEB_THREADS="x")
    assert process.returncode == 1
    assert process.stderr.count("must be a whole number") == 2
    assert len(process.stderr.splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5"])
def test_a_wrong_value_raises_in_create_app_and_not_in_the_import(value):
    code = """
import config, app
try:
    app.create_app()
except config.ConfigError as error:
    assert isinstance(error, ValueError)
    print(error)
"""
    process = python(code, WEB_CONCURRENCY=value, PORT="x", DATABASE_URL="x", CORS_ORIGINS="x")
    assert process.stderr == ""
    assert [line.partition(": must ")[0] for line in process.stdout.splitlines()] == [
        "PORT",
        "WEB_CONCURRENCY",
        "CORS_ORIGINS",
        "DATABASE_URL",
    ]


def test_a_key_that_is_missing_raises_in_create_app(config_class):
    settings = {"SECRET_KEY": None, "SQLALCHEMY_DATABASE_URI": "postgresql+psycopg://h/d"}
    with pytest.raises(ConfigError, match="SECRET_KEY: must be set"):
        create_app(type("NoKeyConfig", (config_class,), settings))


@pytest.mark.slow
@pytest.mark.parametrize("command", [["users", "list"], ["db", "current"], ["--help"]])
def test_every_command_says_what_is_wrong_with_a_setting(command):
    environment = {**os.environ, "PORT": "http", "FLASK_APP": "microblog_api"}
    process = subprocess.run(
        [sys.executable, "-m", "flask", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr == (
        "PORT: must be a whole number from 0 to 65535 (TCP port; 0 is any free one)\n"
    )
    assert process.stdout == ""


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("TOKEN_LIFETIME_SECOND", "TOKEN_LIFETIME_SECONDS"),
        ("PASSWORD_MIN_LENGHT", "PASSWORD_MIN_LENGTH"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("DATABASEURL", "DATABASE_URL"),
        ("SECRETKEY", "SECRET_KEY"),
        ("SECRETKEY_FILE", "SECRET_KEY_FILE"),
        ("MAIL_SERVER_FILE", "MAIL_SERVER"),
        ("WEB_CONCURENCY", "WEB_CONCURRENCY"),
        ("WEB_THREAD", "WEB_THREADS"),
        ("TRUSTED_HOST", "TRUSTED_HOSTS"),
        ("CORS_ORIGIN", "CORS_ORIGINS"),
        ("LOGIN_LIMIT_PER_ADRESS", "LOGIN_LIMIT_PER_ADDRESS"),
        ("REGISTRATIONS_LIMIT_PER_SOURCE", "REGISTRATION_LIMIT_PER_SOURCE"),
    ],
)
def test_a_misspelled_setting_is_found(monkeypatch, name, setting):
    monkeypatch.setenv(name, "5")
    assert misspelled() == {name: setting}


ORDINARY = """
    PATH HOME HOSTNAME HOSTTYPE PYTHONPATH PYTHONUNBUFFERED LOGNAME USER USERNAME SHELL TERM LANG
    LC_ALL PWD OLDPWD TZ MAIL EDITOR DISPLAY VIRTUAL_ENV SSH_AUTH_SOCK XDG_RUNTIME_DIR SHLVL _
    FLASK_APP FLASK_DEBUG FLASK_RUN_PORT FLASK_RUN_HOST FLASK_SECRET_KEY GUNICORN_CMD_ARGS
    SERVER_SOFTWARE SERVER_PORT SERVER_NAME HTTP_PROXY HTTPS_PROXY NO_PROXY
    DB_HOST DB_PORT DB_NAME DB_URL APP_HOST APP_PORT APP_ENV APP_URL APP_KEY APP_SECRET PORTS PORT0
    PGHOST PGPORT PGDATABASE PGPASSWORD DATABASE_HOST DATABASE_NAME DATABASE_PRIVATE_URL
    DATABASE_URL_UNPOOLED POSTGRES_URL POSTGRES_PASSWORD TEST_DATABASE_URL
    REDIS_HOST REDIS_PORT REDIS_TLS_URL REDIS_PASSWORD REDISCLOUD_URL MICROBLOG_PORT
    AWS_SECRET_KEY S3_SECRET_KEY JWT_SECRET_KEY SECRET_KEY_BASE DJANGO_SECRET_KEY ALLOWED_HOSTS
    CORS_ALLOWED_ORIGINS WEB_PORT WEB_HOST WORKERS THREADS MAX_THREADS RAILS_MAX_THREADS
    KUBERNETES_PORT KUBERNETES_SERVICE_HOST INVOCATION_ID JOURNAL_STREAM
""".split()  # noqa: SIM905  a list would have a line for each


def test_an_ordinary_variable_is_not_taken_for_a_misspelled_setting(monkeypatch):
    for name in [*ORDINARY, *SETTINGS, *(f"{name}_FILE" for name in IN_FILES)]:
        monkeypatch.setenv(name, "5")
    assert misspelled() == {}


def test_the_settings_are_the_variables_that_are_read():
    example = (ROOT / ".env.example").read_text()
    assert set(re.findall("^# ([A-Z0-9_]+)=", example, re.MULTILINE)) == SETTINGS


@pytest.mark.slow
def test_the_start_on_postgresql_requires_a_secret_key():
    process = python("import microblog_api", DATABASE_URL="postgresql://localhost/app")
    assert process.returncode == 1
    assert process.stderr.startswith("SECRET_KEY: must be set")
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u:p%40@a:1,b:2/d", {"host": "a,b", "port": "1,2", "user": "u", "password": "p@"}),
        ("a,b:5433/d", {"host": "a,b", "port": ",5433"}),
        ("a,b/d?sslmode=require", {"host": "a,b", "port": ",", "sslmode": "require"}),
        ("[::1]:1,b/d", {"host": "::1,b", "port": "1,"}),
        ("/d?host=a:1&host=b:2", {"host": "a,b", "port": "1,2"}),
        ("/d?host=a,b&port=1,2", {"host": "a,b", "port": "1,2"}),
        ("a,b/d?target_session_attrs=any", {"host": "a,b", "target_session_attrs": "any"}),
    ],
)
def test_several_hosts_of_postgresql_are_passed_on_and_the_one_that_can_write_is_chosen(
    text, expected
):
    url = sa.make_url(database_uri(f"postgresql://{text}"))
    _, options = url.get_dialect()().create_connect_args(url)
    chosen = {"dbname": "d", "target_session_attrs": "read-write"} | expected
    assert {"port": ","} | options == {"port": ","} | chosen


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("", f"sqlite:///{BASE_DIR}/app.db"),
        ("sqlite:///app.db", f"sqlite:///{BASE_DIR}/app.db"),
        ("sqlite:////data/app.db", "sqlite:////data/app.db"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite://"),
        ("postgres://u:p%40@h:5433/d", "postgresql+psycopg://u:p%40@h:5433/d"),
        ("postgresql://h/d?sslmode=require", "postgresql+psycopg://h/d?sslmode=require"),
        ("postgresql://u:a,b/c@h/d", "postgresql+psycopg://u:a%2Cb%2Fc@h/d"),
    ],
)
def test_database_urls_are_normalized(text, uri):
    assert database_uri(text) == uri


@pytest.mark.parametrize(
    "text",
    [
        "app.db",
        "mysql://h/d",
        "sqlite+aiosqlite://",
        "postgresql",
    ],
)
def test_unsupported_database_urls_are_refused(text):
    with pytest.raises(ValidationError, match="must look like"):
        database_uri(text)


def test_no_secret_key_is_generated_on_postgresql(tmp_path):
    with pytest.raises(ConfigError, match="SECRET_KEY: must be set"):
        secret_key_of_instance("postgresql://h/d", str(tmp_path / "instance"))
    assert not (tmp_path / "instance").exists()


@pytest.mark.slow
def test_secrets_can_be_read_from_files(tmp_path):
    secrets = {
        "DATABASE_URL": "postgresql://u:p@h/d",
        "SECRET_KEY": "the key",
        "SECRET_KEY_FALLBACKS": "one,two",
        "REDIS_URL": "redis://h/1",
    }
    for name, text in secrets.items():
        (tmp_path / name).write_text(f"{text}\n")
    code = """
from config import Config as c
c.check()
print(c.SQLALCHEMY_DATABASE_URI, c.SECRET_KEY, c.SECRET_KEY_FALLBACKS, c.REDIS_URL, sep="|")
"""
    files = {f"{name}_FILE": str(tmp_path / name) for name in secrets}
    expected = "postgresql+psycopg://u:p@h/d|the key|('one', 'two')|redis://h/1\n"
    assert python(code, **files).stdout == expected
    # An empty variable, as compose files pass it, is no variable.
    assert python(code, **files, **dict.fromkeys(secrets, "")).stdout == expected


@pytest.mark.slow
def test_a_file_of_a_secret_that_cannot_be_used_stops_the_start(tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    process = python(
        "import microblog_api",
        DATABASE_URL_FILE=str(tmp_path / "nowhere"),
        SECRET_KEY_FILE=str(tmp_path / "empty"),
        SECRET_KEY_FALLBACKS_FILE=str(tmp_path / "binary"),
        REDIS_URL_FILE=str(tmp_path / "nowhere"),
        REDIS_URL="redis://h/1",
    )
    assert process.returncode == 1
    assert sorted(process.stderr.splitlines()) == [
        f"DATABASE_URL_FILE: cannot read {tmp_path}/nowhere: No such file or directory",
        "REDIS_URL_FILE: is set, and so is REDIS_URL; set one of them",
        f"SECRET_KEY_FALLBACKS_FILE: cannot read {tmp_path}/binary: not a text",
        f"SECRET_KEY_FILE: {tmp_path}/empty is empty",
    ]


@pytest.mark.slow
def test_the_path_of_a_key_is_not_taken_for_a_file_with_a_path(tmp_path):
    # Its contents would be the path, which an error shows.
    (tmp_path / "key.pem").write_text("a private key")
    code = "from config import Config as c; c.check(); print(c.TLS_KEY)"
    assert python(code, TLS_KEY_FILE=str(tmp_path / "key.pem")).stdout == "None\n"


@pytest.mark.slow
def test_secret_key_fallbacks_is_a_comma_separated_list():
    code = "from config import Config; print(Config.SECRET_KEY_FALLBACKS)"
    assert python(code, SECRET_KEY_FALLBACKS="one, two,,").stdout == "('one', 'two')\n"


@pytest.mark.slow
def test_an_empty_host_means_127_0_0_1():
    assert python("from config import Config; print(Config.HOST)", HOST="").stdout == "127.0.0.1\n"


def test_the_secret_key_is_generated_once_and_readable_only_by_its_owner(tmp_path):
    instance = tmp_path / "instance"
    key = secret_key_of_instance("sqlite://", str(instance))
    assert len(key) >= 43  # 256 bits in base64
    assert secret_key_of_instance("sqlite://", str(instance)) == key
    assert [file.name for file in instance.iterdir()] == ["secret_key"]
    assert stat.S_IMODE((instance / "secret_key").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_secret_key_that_root_makes_belongs_to_the_owner_of_the_folder(tmp_path):
    os.chown(tmp_path, 10001, 10002)
    secret_key_of_instance("sqlite://", str(tmp_path / "instance"))
    for path in (tmp_path / "instance", tmp_path / "instance" / "secret_key"):
        assert (path.stat().st_uid, path.stat().st_gid) == (10001, 10002)


def test_root_does_not_write_the_secret_key_through_a_link(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.write_text("not a key")

    def replace_by_link(draft, _descriptor):  # as the account can to which it was given
        draft.unlink()
        draft.symlink_to(other)

    monkeypatch.setattr("config.give_to_owner_of_folder", replace_by_link)
    secret_key_of_instance("sqlite://", str(tmp_path))
    assert other.read_text() == "not a key"


def test_a_secret_key_that_is_no_text_stops_the_start(tmp_path):
    (tmp_path / "secret_key").write_bytes(b"\xff\xfe\xfb")
    with pytest.raises(ConfigError, match="secret_key: is not a text; restore it from a copy"):
        secret_key_of_instance("sqlite://", str(tmp_path))


def test_a_line_break_is_not_part_of_the_secret_key(tmp_path):
    key = secret_key_of_instance("sqlite://", str(tmp_path))
    (tmp_path / "secret_key").write_text(f"{key}\n")
    assert secret_key_of_instance("sqlite://", str(tmp_path)) == key


@pytest.mark.slow
def test_processes_that_start_at_once_agree_on_a_key(tmp_path):
    code = f"import config; print(config.secret_key_of_instance('sqlite://', {str(tmp_path)!r}))"
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    assert len({process.communicate()[0] for process in processes}) == 1


def test_a_secret_key_that_cannot_be_stored_stops_the_start(tmp_path):
    (tmp_path / "instance").touch()  # a file where the folder should be
    with pytest.raises(ConfigError, match="instance/secret_key: cannot be made or read"):
        secret_key_of_instance("sqlite://", str(tmp_path / "instance"))


@pytest.mark.slow
def test_the_environment_overrides_the_env_file(tmp_path):
    for file in ("config.py", "config_parsers.py", "ownership.py"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / ".env").write_text("PORT=6000\nWEB_THREADS=3\n")
    code = "from config import Config as c; print(c.PORT, c.WEB_THREADS)"
    process = python(code, directory=tmp_path, PYTHON_DOTENV_DISABLED="0", PORT="7000")
    assert process.stdout == "7000 3\n"


def test_an_empty_key_file_stops_the_start(tmp_path):
    (tmp_path / "secret_key").touch()
    with pytest.raises(ConfigError, match="is empty"):
        secret_key_of_instance("sqlite://", str(tmp_path))


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (parsers.host, "smtp.example.com:587", "must be a host"),
        (parsers.host, "smtp://smtp.example.com", "must be a host"),
        (parsers.host, "smtp..example.com", "must be a host"),
        (parsers.host, "x" * 64, "must be a host"),
        (parsers.host, " ", "must be a host"),
        (parsers.ascii_text, "pässword", "must be ASCII"),
        (parsers.switch, "maybe", "must be on or off"),
        *(
            (parsers.script_name, text, "must look like /app")
            for text in ("app", "//a", "/a?", "/ä")
        ),
        (parsers.mail_sender, "not an address", "must look like API <api@example.com>"),
        (parsers.mail_sender, "A <a@example.com>, b@example.com", "must look like API"),
        (parsers.mail_sent_by, "nobody", "must be server or command"),
        (parsers.notices, "log_in, log_out", "must be off, or some of password_changed"),
        (parsers.page_url, "example.com", "must look like https://example.com"),
        (parsers.page_url, "https://[::1", "must look like https://example.com"),
        (parsers.page_url, "https://example.com:99999", "must look like https://example.com"),
        (parsers.page_url, "https://bücher.example", "in ASCII"),
        (parsers.page_url, "https://user@example.com", "must look like https://example.com"),
        (parsers.page_url, "https://example.com/#/reset", "must look like https://example.com"),
        (parsers.page_url, "javascript:alert(1)", "must look like https://example.com"),
    ],
)
def test_a_text_that_is_of_no_use_for_mail_is_refused(parse, text, said):
    with pytest.raises(ValidationError, match=re.escape(said)):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        *((parsers.host, text, text) for text in ("localhost", "smtp.example.com", "::1")),
        *((parsers.host, text, None) for text in ("",)),
        *((parsers.script_name, text, "") for text in ("", "/")),
        *((parsers.script_name, text, "/my/app-2") for text in ("/my/app-2", "/my/app-2/")),
        *((parsers.switch, text, True) for text in ("1", "on", "TRUE", "yes")),
        *((parsers.switch, text, False) for text in ("", "0", "off", "False", "no")),
        (parsers.mail_sender, "Example <api@example.com>", "Example <api@example.com>"),
        (parsers.mail_sender, "", None),
        (parsers.notices, "off", ()),
        (parsers.notices, "token_created,,log_in", ("log_in", "token_created")),
        (parsers.notices, "", parsers.ALL_NOTICES),
        (parsers.page_url, "http://[::1]:5000/", "http://[::1]:5000"),
        (parsers.page_url, "https://x.example/a/b", "https://x.example/a/b"),
        (parsers.page_url, "", None),
    ],
)
def test_a_setting_of_mail_is_read(parse, text, value):
    assert parse(text) == value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "True False"),
        ({"PASSWORD_BLOCKLIST": "", "EMAIL_ALLOW_LOCAL": ""}, "True False"),
        ({"PASSWORD_BLOCKLIST": "off", "EMAIL_ALLOW_LOCAL": "on"}, "False True"),
    ],
)
def test_the_rules_for_accounts_are_strict_unless_the_settings_say_otherwise(settings, expected):
    code = "from config import Config as c; print(c.PASSWORD_BLOCKLIST, c.EMAIL_ALLOW_LOCAL)"
    assert python(code, **settings).stdout.strip() == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PASSWORD_BLOCKLIST", "EMAIL_ALLOW_LOCAL"])
def test_a_switch_of_the_accounts_is_on_or_off(name):
    done = python("import config; config.Config.check()", **{name: "perhaps"})
    assert f"{name}: must be on or off" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "http://127.0.0.1:5000"),
        ({"SCRIPT_NAME": "/app/"}, "http://127.0.0.1:5000/app"),
        ({"SCRIPT_NAME": "/app", "SITE_URL": "https://x.example/b"}, "https://x.example/b"),
    ],
)
def test_links_in_mails_begin_with_the_path_of_the_api(settings, expected):
    code = "from config import Config as c; print(c.SITE_URL)"
    assert python(code, **settings).stdout.strip() == expected


@pytest.mark.slow
def test_each_setting_of_mail_that_cannot_be_used_is_named():
    wrong = {
        "MAIL_SERVER": "a:1",
        "MAIL_PORT": "0",
        "MAIL_USE_TLS": "2",
        "MAIL_USE_SSL": "2",
        "MAIL_USERNAME": "é",
        "MAIL_PASSWORD": "é",
        "MAIL_SENDER": "x",
        "MAIL_SENT_BY": "x",
        "NOTICES": "x",
        "SITE_URL": "x",
        "RESET_URL": "x",
        "VERIFY_URL": "x",
        "RESET_LINK_SECONDS": "59",
        "VERIFY_LINK_SECONDS": "x",
        "REQUIRE_VERIFIED_EMAIL": "2",
        "MAIL_LIMIT_PER_SOURCE": "x",
        "MAIL_LIMIT_PER_RECIPIENT": "0 per hour",
    }
    done = python("import config; config.Config.check()", **wrong)
    said = done.stderr.partition("ConfigError: ")[2].splitlines()
    assert {line.partition(":")[0] for line in said} == set(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"MAIL_SERVER": "a.example", "MAIL_USERNAME": "a", "MAIL_USE_TLS": "1"},
            ["MAIL_USERNAME: set both", "SITE_URL: must be set with MAIL_SERVER"],
        ),
        (
            {"MAIL_USERNAME": "a", "MAIL_PASSWORD": "b"},
            ["MAIL_PASSWORD: needs MAIL_USE_TLS", "MAIL_SERVER: must be set with MAIL_USERNAME"],
        ),
        ({"MAIL_USE_TLS": "1", "MAIL_USE_SSL": "1"}, ["MAIL_USE_SSL: must not be set with"]),
    ],
)
def test_settings_of_mail_that_contradict_each_other_are_named(settings, said):
    done = python("import config; config.Config.check()", **settings)
    for line in said:
        assert line in done.stderr


@pytest.mark.slow
def test_the_defaults_of_mail_follow_from_other_settings():
    code = (
        "from config import Config as c; print(c.SITE_URL, c.MAIL_PORT, c.MAIL_SENT_BY, c.NOTICES)"
    )
    everything = "('password_changed', 'email_changed', 'log_in', 'token_created')"
    assert python(code).stdout == f"http://127.0.0.1:5000 25 server {everything}\n"
    settings = {"HOST": "::", "PORT": "80", "MAIL_USE_TLS": "yes", "MAIL_SENT_BY": ""}
    assert python(code, **settings).stdout == f"http://[::1]:80 587 server {everything}\n"
    settings = {"SITE_URL": "https://x.example/api/", "MAIL_USE_SSL": "true", "NOTICES": "off"}
    assert python(code, **settings).stdout == "https://x.example/api 465 server ()\n"
