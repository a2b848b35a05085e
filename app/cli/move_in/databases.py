"""How the two databases are opened: the source, which is only read, and the target, ours."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import sqlalchemy as sa

from app.extensions import configure_sqlite, db, path_of_sqlite_file
from app.postgresql import connect_args

_DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
_SQLITE_WAIT_SECONDS = 60
_LOCK_ID = 0x6D6269  # "mbi"; differs from that of the migrations


@dataclass(frozen=True)
class Source:
    """The database that is copied.

    Attributes:
        name: its URL without the password.
        connection: sees it as it was when it was opened.
    """

    name: str
    connection: sa.Connection


@contextmanager
def open_source(text: str) -> Iterator[Source]:
    """Open the database at a URL, to read it as it is at this moment.

    Raises:
        click.ClickException: it cannot be opened; also later, when it cannot be read.
    """
    try:
        url = sa.make_url(text)
        url = url.set(drivername=_DRIVERS[url.get_backend_name()])
    except (sa.exc.ArgumentError, KeyError, ValueError):
        raise click.ClickException(
            "SOURCE_URL is no URL of a database: sqlite:///, postgresql:// or mysql://"
        ) from None
    if _is_target(url):
        raise click.ClickException("SOURCE_URL and DATABASE_URL are the same database")
    # Without a query, which may have a password, too.
    shown = url.set(drivername=url.get_backend_name(), query={}).render_as_string()
    engine = _engine_of_copy(url) if url.get_backend_name() == "sqlite" else _engine(url)

    def say_which(context: sa.ExceptionContext) -> None:
        reason = " ".join(str(context.original_exception).split())
        raise click.ClickException(f"cannot read {shown}: {reason}") from None

    sa.event.listen(engine, "handle_error", say_which)
    try:
        with _connect(engine, shown) as connection:
            if engine.dialect.name == "mysql":
                connection.execution_options(isolation_level="REPEATABLE READ")
                connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            elif engine.dialect.name == "postgresql":
                connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            yield Source(shown, connection)
    finally:
        engine.dispose()


def _is_target(url: sa.URL) -> bool:
    own = db.engine.url
    if url.get_backend_name() != own.get_backend_name():
        return False
    if url.get_backend_name() == "sqlite":
        paths = [Path(each.database or "") for each in (url, own)]
        return all(path.is_file() for path in paths) and paths[0].samefile(paths[1])
    one, other = ((each.host, each.port or 5432, each.database, each.query) for each in (url, own))
    return one == other  # a miss would do no harm: nothing would be changed


def _connect(engine: sa.Engine, shown: str) -> sa.Connection:
    try:
        return engine.connect()
    except (TypeError, OSError) as error:  # an option that the driver does not know; its file
        raise click.ClickException(f"cannot read {shown}: {error}") from None


def _engine(url: sa.URL) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)


def _engine_of_copy(url: sa.URL) -> sa.Engine:
    """Return an engine of a copy of a SQLite database, made in one step.

    Whoever writes to the database would wait for a long reader. The copy is a file without a
    name, which is gone with this process.
    """
    if not url.database or not Path(url.database).is_file():
        raise click.ClickException(f"there is no file {url.database}")
    uri = f"{Path(url.database).resolve().as_uri()}?mode=ro"
    copy = sqlite3.connect("", check_same_thread=False)
    # What is no UTF-8 is a text that cannot be stored, and no error.
    copy.text_factory = lambda data: data.decode(errors="surrogateescape")
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_SQLITE_WAIT_SECONDS)) as source:
            source.backup(copy)
    except sqlite3.Error as error:
        copy.close()
        raise click.ClickException(f"cannot copy {url.database}: {error}") from None
    return sa.create_engine("sqlite://", creator=lambda: copy, poolclass=sa.StaticPool)


@contextmanager
def open_target() -> Iterator[sa.Engine]:
    """Yield an engine of our database without a limit on how long a statement takes.

    Raises:
        click.ClickException: another such command uses it.
    """
    url = db.engine.url
    if url.get_backend_name() == "sqlite":
        options = {"isolation_level": "IMMEDIATE", "timeout": _SQLITE_WAIT_SECONDS}
    else:
        options = connect_args(url, connect_seconds=10)
    engine = sa.create_engine(url, connect_args=options, hide_parameters=True)
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", configure_sqlite)
    try:
        with _only_one(engine):
            yield engine
    finally:
        engine.dispose()


@contextmanager
def _only_one(engine: sa.Engine) -> Iterator[None]:
    path = path_of_sqlite_file(engine.url)
    with ExitStack() as held:
        if engine.dialect.name == "postgresql":
            connection = held.enter_context(engine.connect())
            is_free = connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_LOCK_ID)))
            connection.commit()
        elif path is not None:
            # Of the folder: to close the file itself would drop locks of SQLite.
            folder = os.open(Path(path).parent, os.O_RDONLY)
            held.callback(os.close, folder)
            is_free = True
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_free = False
        else:
            is_free = True
        if not is_free:
            raise click.ClickException("another `flask move-in` uses the database")
        yield


def analyze(target: sa.Engine) -> None:
    """Let PostgreSQL know how many rows there are now; otherwise it reads whole tables."""
    if target.dialect.name == "postgresql":
        with target.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
