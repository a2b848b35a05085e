"""A process with the tests collected and the database made, which forks for each trial.

The fork gives the functions their changed code, and runs the tests that it is asked for.
"""

import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mutation.swap import functions, swap

# Makes the application and its database.
WARM_UP = """
from app import db

def test_warm_up(migrated_app):
    with migrated_app.app_context():
        db.session.remove()
        db.engine.dispose()  # no connection must be used by two processes
        global DATABASE
        DATABASE = db.engine.url.database
"""
WARM_UP_FILE = "tests/test_warm_up.py"

# Status of a trial, beside those of pytest.
FAILED = 70
CANNOT_SWAP = 99


@dataclass(eq=False)  # pytest wants plugins that can be hashed
class Waiting:
    """A plugin of pytest: waits for trials, in place of running what is collected.

    Attributes:
        requests: socket; a line of JSON for each trial, answered with its status.
        failed_file: gets a line with the id of each test that fails.
    """

    requests: socket.socket
    failed_file: Path
    _functions: list[Any] = field(default_factory=list)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        on_sqlite = [item for id, item in items.items() if "[sqlite" in id]
        first = next(item for item in on_sqlite if item.nodeid.startswith(WARM_UP_FILE))
        # With a next one of the same kind, what both need stays.
        other = next(item for item in on_sqlite if item is not first)
        session.config.hook.pytest_runtest_protocol(item=first, nextitem=other)
        if session.testsfailed:
            raise session.Failed("the tests cannot be collected, or the database not be made")
        database = Path(sys.modules["tests.test_warm_up"].DATABASE)
        copy = database.with_suffix(".copy")
        shutil.copy(database, copy)
        self._functions = functions()
        for line in self.requests.makefile():
            trial = json.loads(line)
            for suffix in ("-wal", "-shm"):
                Path(f"{database}{suffix}").unlink(missing_ok=True)
            shutil.copy(copy, database)
            chosen = [items[test] for test in trial["tests"]]
            status = self._fork(trial, session, chosen)
            self.requests.sendall(json.dumps(status).encode() + b"\n")
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            with self.failed_file.open("a") as file:
                file.write(f"{report.nodeid}\n")

    def _fork(
        self, trial: dict[str, Any], session: pytest.Session, items: list[pytest.Item]
    ) -> int | None:
        """Return the status of the trial; `None` if it took too long."""
        self.failed_file.write_text("")
        pid = os.fork()
        if not pid:
            status = FAILED
            try:
                os.setsid()
                signal.alarm(int(trial["seconds"]) + 60)  # if nobody waits for it any more
                is_whole = trial["before"] == trial["after"] or swap(
                    trial["path"], trial["before"], trial["after"], self._functions
                )
                status = run_items(session, items) if is_whole else CANNOT_SWAP
            except BaseException:  # noqa: BLE001  the process ends here, whatever it is
                traceback.print_exc()
            finally:
                os._exit(status)
        return wait(pid, trial["seconds"])


def run_items(session: pytest.Session, items: list[pytest.Item]) -> int:
    """Run tests until one fails; return 1 if one does, else 0."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            session._setupstate.teardown_exact(None)  # noqa: SLF001  as pytest does at the end
            return 1
    return 0


def wait(pid: int, seconds: float) -> int | None:
    """Return the status of a child process; `None` if it took longer and was killed."""
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.005)
