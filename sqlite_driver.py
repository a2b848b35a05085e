"""SQLite's driver, with connections that notice when their file is deleted or replaced.

SQLite itself goes on to read and write a deleted file for as long as it has it open, and
creates a new one for the next connection.
"""

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

CHECK_SECONDS = 0.05  # between two looks whether the file is in its place


def identity_of(path: str) -> tuple[int, int] | None:
    """Return what tells a file from any other that has this path later; `None` without a file."""
    try:
        found = os.stat(path)  # noqa: PTH116  a Path would double the cost
    except OSError:
        return None
    return found.st_dev, found.st_ino


class SQLiteFile:
    """Notices that the file of a database has been deleted or replaced."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._next_look = 0.0

    def connect(
        self, _dialect: sa.Dialect, _entry: ConnectionPoolEntry, args: Any, parameters: Any
    ) -> "SQLiteConnection":
        return SQLiteConnection(*args, **parameters)

    def check(self, driver: "SQLiteConnection", _entry: ConnectionPoolEntry, _proxy: Any) -> None:
        """Have the pool replace a connection to a file that is no longer in its place.

        Looked at each time, the file would add 3 % to a request that checks a token. A
        write is checked exactly, see `SQLiteConnection.commit`.
        """
        now = time.monotonic()
        if now >= self._next_look or driver.identity != self._identity:
            self._identity = identity_of(self._path)
            self._next_look = now + CHECK_SECONDS
            if driver.identity != self._identity:
                raise sa.exc.DisconnectionError("the file has been deleted or replaced")


class SQLiteConnection(sqlite3.Connection):
    """A connection to a file that exists, which commits only while that is in its place.

    Attributes:
        identity: of the file.
    """

    def __init__(self, path: str, **options: Any) -> None:
        """Open the file at `path`.

        Raises:
            sqlite3.OperationalError: it does not exist, or cannot be opened.
        """
        # Before it is opened: if it is replaced meanwhile, the next check notices.
        self.identity = identity_of(path)
        if self.identity is None:
            text = f"there is no file {path}; put it back, or create it with `flask db upgrade`"
            raise _unavailable(text, sqlite3.SQLITE_CANTOPEN)
        self._files: list[tuple[str, tuple[int, int] | None]] = [(path, self.identity)]
        super().__init__(f"{Path(path).as_uri()}?mode=rw", uri=True, **options)

    def watch_companions(self) -> None:
        """From now on, do not commit if the -wal or the -shm has been deleted, either.

        Raises:
            sqlite3.OperationalError: the file has been replaced while it was opened.
        """
        self.execute("SELECT 1 FROM sqlite_master").fetchone()  # has SQLite open them
        path = os.path.realpath(self._files[0][0])
        self._files += [(path + end, identity_of(path + end)) for end in ("-wal", "-shm")]
        self._check_files()

    def commit(self) -> None:
        """Commit, if the file is in its place.

        Raises:
            sqlite3.OperationalError: it is not. Nothing is committed, or, if that happened
                during the commit, into the file that has been deleted.
        """
        if not self.in_transaction:
            return
        try:
            self._check_files()
            super().commit()
        except sqlite3.Error:
            self.rollback()  # SQLAlchemy does not; the next user of the connection would commit
            raise
        self._check_files()

    def _check_files(self) -> None:
        for path, identity in self._files:
            if identity_of(path) != identity:
                text = f"{path} has been deleted or replaced"
                raise _unavailable(text, sqlite3.SQLITE_READONLY_DBMOVED)


def _unavailable(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error
