"""Change the code that checks passwords and tokens, and see whether tests notice.

    python -m mutation run [--sample N --seed S] [--only TEXT]   small changes; writes the table
    python -m mutation promises                                  those of promises.toml

Both take the last commit, and go on where they were stopped; the state is in .mutation/. Tests
run on PostgreSQL, too, if TEST_DATABASE_URL is set. docs/mutation.md says more.
"""

import argparse
import fcntl
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from mutation import report
from mutation.changes import ROOT, SCOPE, Change, changes_of
from mutation.trial import Baseline, Copy, Worker

STATE = ROOT / ".mutation"
# What a result depends on, in Git; and whether PostgreSQL is there.
INPUTS = (
    *("app", "tests", "migrations", "config.py", "config_parsers.py", "sqlite_driver.py"),
    *("boot.sh", "server.py", "listener.py", "ownership.py", "tls.py", "metrics_server.py"),
    *("microblog_api.py", "pyproject.toml", "requirements-dev.txt"),
    *(f"mutation/{name}.py" for name in ("__main__", "changes", "swap", "trial", "warm")),
)

# The tests that are asked: the quick ones that are most about the file, all quick ones (of several
# changes at once), the slow ones that are named for the change. At last, all quick ones of the
# changes that are listed as equivalent.
STAGES = ("near", "quick", "slow", "equivalent")
FEW_SECONDS = 30  # that all tests take that reach a change: then all are near
NEAR_SECONDS = 4  # that the nearest tests take otherwise
VARIANTS = 3  # of a test function with parameters, before other functions
ON_POSTGRESQL = 3  # tests that are near
TOGETHER = 40  # changes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mutation", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="change the code in small ways")
    run.add_argument("--sample", type=int, metavar="N", help="N changes; by default, all")
    run.add_argument("--seed", type=int, default=0, help="of the sample, and of the order")
    run.add_argument("--only", metavar="TEXT", default="", help="changes that contain the text")
    run.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="by default, all")
    run.add_argument("--processes", type=int, default=os.cpu_count())
    run.set_defaults(command=run_changes)
    promises = commands.add_parser("promises", help="break each promise of SECURITY.md")
    promises.set_defaults(command=run_promises)
    arguments = vars(parser.parse_args())
    command = arguments.pop("command")
    STATE.mkdir(exist_ok=True)
    lock = (STATE / f"{command.__name__}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("another run is under way")
    command(**arguments)


def state() -> tuple[Path, str]:
    """Return the folder for results of the last commit, and its name.

    Raises:
        SystemExit: what is changed or runs has changes that are not committed.
    """
    if git("status", "--porcelain", *INPUTS):
        sys.exit("commit first: the last commit is what is tried")
    versions = [git("rev-parse", f"HEAD:{path}") for path in INPUTS]
    versions.append(str("TEST_DATABASE_URL" in os.environ))
    folder = STATE / hashlib.sha256(" ".join(versions).encode()).hexdigest()[:12]
    folder.mkdir(exist_ok=True)
    return folder, git("rev-parse", "--short", "HEAD").strip()


def git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


# -- Small changes ---------------------------------------------------------------------


def run_changes(
    *, sample: int | None, seed: int, only: str, stages: Sequence[str], processes: int
) -> None:
    folder, commit = state()
    results = Results(folder / "changes.jsonl")
    every = [change for path in SCOPE for change in changes_of(path)]
    equivalent = report.equivalent(every)
    slow_tests = report.slow_tests(every)
    changes = [change for change in every if only in change.key]
    random.Random(seed).shuffle(changes)
    changes = changes[:sample]
    copies = [Copy(STATE / f"copy{number}") for number in range(processes)]
    baseline = Baseline.of(copies[0], folder / "baseline.json")
    baseline.preload()
    earlier = earlier_results()
    for stage in stages:
        done = results.read()
        pending = [
            change
            for change in changes
            if (change.key in equivalent) == (stage == "equivalent")
            and is_due(stage, done.get(change.key), slow_tests.get(change.key))
        ]
        print(f"{stage} tests: {len(pending)} of {len(changes)} changes", flush=True)
        children = []
        workers = copies[:1] if stage == "slow" else copies  # they measure times
        for number, copy in enumerate(workers):
            if pid := os.fork():
                children.append(pid)
                continue
            worker = Worker(copy, baseline, slow_tests)
            killers = Killers(changes, earlier | results.read())
            try_all(pending[number :: len(workers)], stage, worker, results, killers)
            os._exit(0)
        ended = [os.waitpid(pid, 0)[1] for pid in children]
        if any(ended):
            sys.exit("a process has ended before its work was done; run it again")
    found = results.read()
    is_whole = len(changes) == len(every)
    if is_whole:
        report.write_killers(changes, found)
    tried = f"{commit}, `--stages {' '.join(stages)}`" if is_whole else None
    report.write_changes(changes, found, equivalent, tried)


def is_due(stage: str, result: dict[str, Any] | None, slow_test: str | None) -> bool:
    """Return whether a change is to be tried; `slow_test` is the one named for it."""
    if result is None or result["outcome"] == "broken":
        return stage in {"near", "equivalent"}
    if result["outcome"] != "survived":
        return False
    if stage == "slow":
        # Again where another test is named now.
        return slow_test not in {None, result["test"]}
    return (stage, result["stage"]) == ("quick", "near")


def try_all(
    pending: list[Change], stage: str, worker: Worker, results: "Results", killers: "Killers"
) -> None:
    if stage != "slow" and pending:
        worker.check()
    for batch in batches(pending, TOGETHER if stage in {"quick", "equivalent"} else 1):
        began = time.monotonic()
        if stage == "slow":
            outcomes = {change: worker.try_slow(change) for change in batch}
        elif len(batch) > 1:
            outcomes = worker.try_together(batch, partial(killers.sorted, worker.baseline))
        else:
            (change,) = batch
            tests = killers.sorted(worker.baseline, change)
            if stage == "near":
                tests = nearest(tests, worker.baseline)
            noticed_by = killers.of_change.get(change.key)
            outcomes = {change: worker.try_quick(change, tests, noticed_by)}
        took = round((time.monotonic() - began) / len(batch), 1)
        for change, (outcome, test) in outcomes.items():
            if outcome == "killed":
                killers.add(change, test)
            results.add(change.key, outcome=outcome, test=test, stage=stage, seconds=took)
            if outcome != "killed" and stage != "near":
                print(f"{outcome}: {change.key}", flush=True)


def batches(changes: list[Change], most: int) -> Iterator[list[Change]]:
    """Yield changes that can be made at once: of different functions, or of different lines."""
    waiting: defaultdict[tuple[str, str, int], list[Change]] = defaultdict(list)
    for change in changes:
        line = change.first if change.function == "module" else 0
        waiting[change.path, change.function, line].append(change)
    while waiting:
        # Of those with many left first, so that the batches are as few as can be.
        places = sorted(waiting, key=lambda place: -len(waiting[place]))[:most]
        yield [waiting[place].pop() for place in places]
        for place in places:
            if not waiting[place]:
                del waiting[place]


def nearest(tests: list[str], baseline: Baseline) -> list[str]:
    """Return tests that take few seconds: all, or the first on SQLite and some on PostgreSQL."""
    if sum(baseline.seconds[test] for test in tests) <= FEW_SECONDS:
        return tests
    on_postgresql = [test for test in tests if "[postgresql" in test]
    others = [test for test in tests if "[postgresql" not in test]
    seconds = accumulate(baseline.seconds[test] for test in others)
    near = [test for test, end in zip(others, seconds, strict=True) if end <= NEAR_SECONDS]
    return [*near, *on_postgresql[:ON_POSTGRESQL]]


class Killers:
    """The tests that have noticed changes, by function and by file; those of former runs, too.

    Each counts for its module as well: where one test has noticed a change, others may.
    """

    def __init__(self, changes: list[Change], results: dict[str, dict[str, Any]]) -> None:
        self.of_change = {
            key: result["test"] for key, result in results.items() if result["outcome"] == "killed"
        }
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for function, tests in report.killers().items():
            for number, test in enumerate(tests):
                self._add(function, test, len(tests) - number)
        for change in changes:
            if change.key in self.of_change:
                self.add(change, self.of_change[change.key])

    def add(self, change: Change, test: str) -> None:
        if test:
            self._add(f"{change.path} {change.function}", test, 1)

    def _add(self, function: str, test: str, weight: int) -> None:
        for changed in (function, function.partition(" ")[0]):
            self._counts[changed][test] += weight
            self._counts[changed][module_of(test)] += weight

    def sorted(self, baseline: Baseline, change: Change) -> list[str]:
        """Return the tests of a change in the order in which they are worth asking.

        First the one that has noticed it at another commit, then those that have noticed others
        nearby. Then those of modules that have, and that are about the file, a few of each test
        function at first. Those on PostgreSQL last: the database is made anew for them.
        """
        of_function = self._counts[f"{change.path} {change.function}"]
        of_file = self._counts[change.path]
        weights = baseline.weights(change.path)
        noticed_by = self.of_change.get(change.key)
        tests = sorted(baseline.reaching(change), key=lambda test: -weights[test])
        turns = Counter[str]()
        rank = {}
        for test in tests:
            turns[test.partition("[")[0]] += 1
            rank[test] = turns[test.partition("[")[0]]
        return sorted(
            tests,
            key=lambda test: (
                test != noticed_by,
                "[postgresql" in test,
                -of_function[test],
                -of_file[test],
                rank[test] > VARIANTS,
                -of_function[module_of(test)],
                -of_file[module_of(test)],
                rank[test],
            ),
        )


def module_of(test: str) -> str:
    return test.partition("::")[0]


class Results:
    """A file with a line for each trial; the last one of a change counts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        lines = map(json.loads, self._path.read_text().splitlines())
        return {line["key"]: line for line in lines}

    def add(self, key: str, **result: Any) -> None:
        with self._path.open("a") as file:  # a single write: several processes do it
            file.write(json.dumps({"key": key, **result}) + "\n")


def earlier_results() -> dict[str, dict[str, Any]]:
    """Return the last result of each change by its key, at whichever commit."""
    results: dict[str, dict[str, Any]] = {}
    for file in sorted(STATE.glob("*/changes.jsonl"), key=lambda file: file.stat().st_mtime):
        results |= Results(file).read()
    return results


# -- Promises --------------------------------------------------------------------------


def run_promises() -> None:
    folder, commit = state()
    results = Results(folder / "promises.jsonl")
    done = results.read()
    copy = Copy(STATE / "promises")
    passing: set[tuple[str, ...]] = set()
    for change in report.promised_changes():
        if done.get(change.key, {}).get("outcome") == "killed":
            continue
        outcome, test = "broken", ""
        if change.tests in passing or copy.run_command(change.tests)[0] == 0:
            passing.add(change.tests)
            file = copy.path / change.path
            source = file.read_text()
            file.write_text(change.applied_to(source))
            status, test = copy.run_command(["-x", *change.tests])
            file.write_text(source)
            outcome = {0: "survived", 1: "killed", None: "timeout"}.get(status, "broken")
        results.add(change.key, outcome=outcome, test=test)
        print(f"{outcome}: {change.key}", flush=True)
    report.write_promises(results.read(), commit)


if __name__ == "__main__":
    main()
