"""Copies of the last commit, in which changes are tried."""

import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import coverage
import pytest

from mutation.changes import ROOT, SCOPE, Change, together
from mutation.warm import CANNOT_SWAP, FAILED, WARM_UP, WARM_UP_FILE, Waiting, wait

SLOW_SECONDS = 1200  # for the slow test of a change
# Of pytest: a test has failed, the tests cannot be collected, conftest.py cannot be imported.
NOT_IMPORTED = {2, 4}
TRIED_FIRST = 15  # of the tests that have failed


class Copy:
    """A clone of the last commit.

    Attributes:
        path: of the clone; log files are beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path.with_suffix(".log")
        self.failed_file = path.with_suffix(".failed")
        shutil.rmtree(path, ignore_errors=True)
        clone = ["git", "clone", "--quiet", "--shared", str(ROOT), str(path)]
        subprocess.run(clone, check=True)
        (path / ".venv").symlink_to(sys.prefix)

    def fork(self, run: Callable[[], int], log: Path | None = None) -> int:
        """Call `run` in a child process in this copy; return the id of the process."""
        self.failed_file.write_text("")
        pid = os.fork()
        if pid:
            return pid
        status = FAILED
        try:
            os.setsid()
            output = os.open(log or self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(self.path)
            sys.path[:] = [str(self.path), *(p for p in sys.path if p not in {"", str(ROOT)})]
            status = run()
        except BaseException:  # noqa: BLE001  the process ends here, whatever it is
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def run_pytest(self, arguments: Sequence[str], plugin: object) -> int:
        """Run pytest in this process, which is in this copy; return its status."""
        # What was imported before cannot be rewritten.
        ignored = "ignore::pytest.PytestAssertRewriteWarning"
        options = ["-q", "--no-header", "-p", "no:cacheprovider", "--tb=short", "-W", ignored]
        return int(pytest.main([*options, *arguments], plugins=[plugin]))

    def folder(self, name: str) -> str:
        """Return an argument of pytest for its temporary files; what is there is deleted."""
        return f"--basetemp={self.path.with_suffix(f'.{name}')}"

    def run_command(self, arguments: Sequence[str]) -> tuple[int | None, str]:
        """Run pytest in a new process.

        Return its status (`None` if it took too long), and the first test that failed.
        """
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        # Changes within a second would be taken for one another.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        with self.log.open("w") as log:
            process = subprocess.Popen(
                command, cwd=self.path, stdout=log, stderr=log, env=environment, process_group=0
            )
            status = wait(process.pid, SLOW_SECONDS)
        failed = re.search(r"^(?:FAILED|ERROR) (tests/\S+)", self.log.read_text(), re.MULTILINE)
        return status, failed[1] if failed else ""


# -- What reaches which line -----------------------------------------------------------


@dataclass
class Baseline:
    """What the quick tests do with the code as it is.

    Attributes:
        seconds: that each test takes which passes.
        modules: names of those that were imported from other packages.
        coverage_file: of coverage.py, with a context for each test.
        copy: where that was measured.
    """

    seconds: dict[str, float]
    modules: list[str]
    coverage_file: str
    copy: str

    @classmethod
    def of(cls, copy: Copy, file: Path) -> "Baseline":
        """Read it from a file, or run all quick tests and write it there."""
        if not file.exists():
            print("all quick tests run once", flush=True)
            pid = copy.fork(lambda: _record(copy, file))
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
                sys.exit(f"the quick tests cannot be run; see {copy.log}")
        return cls(**json.loads(file.read_text()))

    def preload(self) -> None:
        """Import what is not changed, so that a trial need not."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in self.modules:
                with suppress(Exception):  # what is missing is imported when it is needed
                    importlib.import_module(name)

    def is_at_import(self, change: Change) -> bool:
        """Return whether the changed lines run when the application is made."""
        lines = self._tests_of_lines(change.path)
        return any("" in lines.get(line, []) for line in change.lines)

    def reaching(self, change: Change) -> list[str]:
        """Return the tests that reach the changed lines; all tests if none is known to."""
        lines = self._tests_of_lines(change.path)
        reached = {test for line in change.lines for test in lines.get(line, [])}
        if not reached or "" in reached:
            return list(self.seconds)
        return sorted(reached & self.seconds.keys())

    @cache  # noqa: B019  there is one
    def weights(self, path: str) -> dict[str, float]:
        """Return how much each test is about a file: lines that few reach count more."""
        weights = dict.fromkeys(self.seconds, 0.0)
        for tests in self._tests_of_lines(path).values():
            for test in weights.keys() & set(tests):
                weights[test] += 1 / len(tests)
        return weights

    @cache  # noqa: B019  likewise
    def _tests_of_lines(self, path: str) -> dict[int, list[str]]:
        data = coverage.CoverageData(self.coverage_file)
        data.read()
        return data.contexts_by_lineno(f"{self.copy}/{path}")

    def __hash__(self) -> int:
        return id(self)


@dataclass(eq=False)
class _Recording:
    """A plugin of pytest: records how long each test takes, and which lines it reaches."""

    coverage: coverage.Coverage
    seconds: dict[str, float] = field(default_factory=dict)
    not_passed: set[str] = field(default_factory=set)
    test: str = ""  # that is running

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.test = item.nodeid
        self.coverage.switch_context(item.nodeid)
        result = yield
        self.coverage.switch_context("")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        if fixturedef.scope != "session":
            return (yield)
        self.coverage.switch_context("")  # not of the first test that asks for it
        try:
            return (yield)
        finally:
            self.coverage.switch_context(self.test)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        self.seconds[test] = self.seconds.get(test, 0) + report.duration
        if not report.passed:
            self.not_passed.add(test)


def _record(copy: Copy, file: Path) -> int:
    data = file.with_suffix(".coverage")
    data.unlink(missing_ok=True)
    include = [str(copy.path / path) for path in SCOPE]
    measured = coverage.Coverage(data, branch=False, include=include, config_file=False)
    measured.start()
    recording = _Recording(measured)
    status = copy.run_pytest(["-m", "not slow", copy.folder("recorded")], recording)
    measured.stop()
    measured.save()
    if status not in {0, 1}:
        return status
    print("not used, as they fail or are skipped:", *sorted(recording.not_passed), sep="\n")
    elsewhere = {test for test in recording.seconds if str(copy.path) in test}  # another name
    unusable = recording.not_passed | elsewhere
    baseline = {
        "seconds": {t: s for t, s in recording.seconds.items() if t not in unusable},
        "modules": [
            name
            for name, module in list(sys.modules.items())
            if not str(getattr(module, "__file__", None) or copy.path).startswith(str(copy.path))
        ],
        "coverage_file": str(data),
        "copy": str(copy.path),
    }
    file.write_text(json.dumps(baseline))
    return 0


# -- Trials ----------------------------------------------------------------------------


@dataclass(eq=False)
class _Selection:
    """A plugin of pytest: runs these tests in this order."""

    tests: list[str]
    failed_file: Path

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_id = {item.nodeid: item for item in items}
        items[:] = [by_id[test] for test in self.tests]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            with self.failed_file.open("a") as file:
                file.write(f"{report.nodeid}\n")


class Worker:
    """Tries changes in a copy of the project, one after another."""

    def __init__(self, copy: Copy, baseline: Baseline, slow_tests: dict[str, str]) -> None:
        self.copy = copy
        self.baseline = baseline
        self._slow_tests = slow_tests
        self._sources = {path: (copy.path / path).read_text() for path in SCOPE}
        self._socket: socket.socket | None = None  # of the process that waits
        self._unreliable: set[str] = set()
        self._reliable: set[tuple[str, bool]] = set()  # also whether in a new process

    def try_quick(
        self, change: Change, tests: list[str], noticed_by: str | None = None
    ) -> tuple[str, str]:
        """Return the outcome (`killed`, `survived`, `timeout`, `broken`), and the test.

        Killed is a change with which a test fails twice that passes without it, alone.

        Args:
            change: to be made.
            tests: to be run, until one fails.
            noticed_by: the test that has noticed the change at another commit: for it, once
                is enough.
        """
        tests = [test for test in tests if test not in self._unreliable]
        while tests:
            outcome, test = self._run(change, tests)
            if outcome != "killed" or not test:
                return outcome, test
            is_repeated = test == noticed_by or self._run(change, [test])[0] == "killed"
            if is_repeated and self._is_reliable(test, change):
                return "killed", test
            tests = tests[tests.index(test) + 1 :]
        return "survived", ""

    def try_together(
        self, changes: list[Change], in_order: Callable[[Change], list[str]]
    ) -> dict[Change, tuple[str, str]]:
        """Return the outcome for each of several changes that do not overlap.

        All of them are made at once, and all quick tests run once. Each change is then tried
        with those that failed. That is much faster, as most survive. A test that passes with all
        of them counts as one that notices none of them.

        Args:
            changes: in any files.
            in_order: gives the tests of a change in the order in which they are to be tried.
        """
        outcomes = dict.fromkeys(changes, ("survived", ""))
        left = list(changes)
        failed = [test for test in self.baseline.seconds if test not in self._unreliable]
        while left:
            if len(left) == 1:
                return outcomes | {left[0]: self.try_quick(left[0], failed)}
            status = self._write_and_run(left, failed, stop=False)
            if status == 0:
                break
            if status != 1:  # one of them does not end, or cannot be imported with the others
                for some in (left[::2], left[1::2]):
                    outcomes |= self.try_together(some, in_order)
                return outcomes
            failed = self._failed()
            for most in (TRIED_FIRST, None):
                found = {}
                for change in left:
                    # A cached function is not reached by each test that depends on it.
                    tests = list(dict.fromkeys([*in_order(change), *failed]))
                    tests = [test for test in tests if test in failed]
                    found[change] = self.try_quick(change, tests[:most])
                outcomes |= found
                if any(outcome != "survived" for outcome, _ in found.values()):
                    break
            else:
                break  # it was a test that does not always pass
            left = [change for change in left if outcomes[change][0] == "survived"]
        return outcomes

    def try_slow(self, change: Change) -> tuple[str, str]:
        """Like `try_quick`, with the slow test that survivors.toml names."""
        test, original = self._slow_tests[change.key], self._sources[change.path]

        def run(source: str) -> int | None:
            (self.copy.path / change.path).write_text(source)
            return self.copy.run_command([test])[0]

        status = run(change.source)
        if status == 1 and (run(change.source), run(original)) != (1, 0):
            status = FAILED
        (self.copy.path / change.path).write_text(original)
        return {0: "survived", 1: "killed", None: "timeout"}.get(status, "broken"), test

    def check(self) -> None:
        """See that a change that breaks everything is noticed, and one that changes nothing is not.

        Raises:
            SystemExit: it is not so.
        """
        path = "app/security/tokens.py"
        source = self._sources[path]
        tests = [test for test in self.baseline.seconds if "test_tokens.py" in test][:3]
        longer = source + "\n"
        broken = source.replace("def digest(text: str) -> bytes:", "def digest() -> bytes:")
        broken = broken.replace("def seal(text: str) -> bytes:", "def seal() -> bytes:")
        outcomes = [
            self._run(Change(path, "", "", "", 1, 1, 1, text), tests, at_import=at_import)[0]
            for text, at_import in (
                (source, False),
                (longer, True),
                (broken, False),
                (broken, True),
            )
        ]
        if outcomes != ["survived", "survived", "killed", "killed"]:
            sys.exit(f"the trials are wrong: {outcomes}; see {self.copy.log}")

    def _is_reliable(self, test: str, change: Change) -> bool:
        """Return whether a test passes alone without the change, in a process of the same kind."""
        at_import = self.baseline.is_at_import(change)
        if (test, at_import) not in self._reliable:
            path = SCOPE[0]
            same = Change(path, "", "", "", 1, 1, 1, self._sources[path])
            if self._run(same, [test], at_import=at_import)[0] != "survived":
                self._unreliable.add(test)
                return False
            self._reliable.add((test, at_import))
        return True

    def _run(
        self, change: Change, tests: list[str], *, at_import: bool | None = None
    ) -> tuple[str, str]:
        """Return the outcome, and the first test that fails with a change."""
        if at_import is None:
            at_import = self.baseline.is_at_import(change)
        status: int | None = CANNOT_SWAP
        if not at_import:
            sources = {"before": self._sources[change.path], "after": change.source}
            path = str(self.copy.path / change.path)
            seconds = self._limit(tests)
            status = self._ask({"path": path, **sources, "tests": tests, "seconds": seconds})
        is_new_process = status == CANNOT_SWAP
        if is_new_process:
            status = self._write_and_run([change], tests, stop=True)
        if status == 1:
            return "killed", next(iter(self._failed()), "")
        if is_new_process and status in NOT_IMPORTED:
            return "killed", ""
        return {None: "timeout", 0: "survived"}.get(status, "broken"), ""

    def _write_and_run(self, changes: list[Change], tests: list[str], *, stop: bool) -> int | None:
        """Return the status of pytest in a new process; `stop` at the first test that fails."""
        paths = {change.path for change in changes}
        for path in paths:
            some = [change for change in changes if change.path == path]
            (self.copy.path / path).write_text(together(self._sources[path], some))
        limit = self._limit(tests) + 60

        def run() -> int:
            signal.alarm(int(limit) + 60)  # if nobody waits for it any more
            return self._run_anew(tests, stop=stop)

        status = wait(self.copy.fork(run), limit)
        for path in paths:
            (self.copy.path / path).write_text(self._sources[path])
        return status

    def _limit(self, tests: list[str]) -> float:
        return 30 + 5 * sum(self.baseline.seconds[test] for test in tests)

    def _failed(self) -> list[str]:
        return list(dict.fromkeys(self.copy.failed_file.read_text().splitlines()))

    def _run_anew(self, tests: list[str], *, stop: bool) -> int:
        # The code as it is was compiled by the first run; no change may be taken for it.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        files = sorted({test.partition("::")[0] for test in tests})
        arguments = [*(["-x"] if stop else []), self.copy.folder("anew"), *files]
        return self.copy.run_pytest(arguments, _Selection(tests, self.copy.failed_file))

    def _ask(self, trial: dict[str, Any]) -> int | None:
        if self._socket is None:
            self._socket, other = socket.socketpair()
            (self.copy.path / WARM_UP_FILE).write_text(WARM_UP)
            own = self._socket

            def serve() -> int:
                own.close()  # else the end of this process would not end that one
                waiting = Waiting(other, self.copy.failed_file)
                arguments = ["-m", "not slow", self.copy.folder("warm")]
                return self.copy.run_pytest(arguments, waiting)

            self.copy.fork(serve, self.copy.path.with_suffix(".warm.log"))
            other.close()
            self._answers = own.makefile()
        self._socket.sendall(json.dumps(trial).encode() + b"\n")
        answer = self._answers.readline()
        if not answer:
            self._socket = None
            return FAILED
        status: int | None = json.loads(answer)
        return status
