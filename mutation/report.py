"""The tables of docs/mutation.md, and what is written down about changes."""

import json
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mutation.changes import ROOT, SCOPE, Change

PAGE = ROOT / "docs" / "mutation.md"
PROMISES = Path(__file__).with_name("promises.toml")
SURVIVORS = Path(__file__).with_name("survivors.toml")
KILLERS = Path(__file__).with_name("killers.json")


# -- Small changes ---------------------------------------------------------------------


def equivalent(changes: list[Change]) -> set[str]:
    """Return the keys of the changes that no test can notice."""
    return set(_survivors("equivalent", changes))


def slow_tests(changes: list[Change]) -> dict[str, str]:
    """Return for the key of a change the slow test that notices it, where one is named."""
    return {key: entry["test"] for key, entry in _survivors("slow", changes).items()}


def _survivors(kind: str, changes: list[Change]) -> dict[str, dict[str, Any]]:
    """Return what survivors.toml says of changes.

    Raises:
        SystemExit: it says something of one that is not among all changes.
    """
    entries = tomllib.loads(SURVIVORS.read_text()).get(kind, [])
    listed = {key.strip(): entry for entry in entries for key in entry["changes"]}
    stale = listed.keys() - {change.key for change in changes}
    if stale:
        raise SystemExit("\n".join(["survivors.toml has changes that are none:", *sorted(stale)]))
    return listed


def killers() -> dict[str, list[str]]:
    """Return for each function the tests that have noticed changes of it, most of them first."""
    tests: dict[str, list[str]] = json.loads(KILLERS.read_text()) if KILLERS.exists() else {}
    return tests


def write_killers(changes: list[Change], results: dict[str, dict[str, Any]]) -> None:
    """Write them down for the next run, which asks them first."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for change in changes:
        result = results.get(change.key, {"outcome": "not tried"})
        if result["outcome"] == "killed":
            found[f"{change.path} {change.function}"][result["test"]] += 1
    tests = {name: [test for test, _ in counts.most_common()] for name, counts in found.items()}
    KILLERS.write_text(json.dumps(killers() | tests, indent=1, sort_keys=True) + "\n")


def write_changes(
    changes: list[Change],
    results: dict[str, dict[str, Any]],
    equivalent: set[str],
    tried: str | None,
) -> None:
    """Print the table, and before it what is to be looked at.

    Write it to the page if all was tried: then `tried` says at which commit and how.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for change in changes:
        result = results.get(change.key, {"outcome": "not tried", "stage": ""})
        kind = result["outcome"]
        if change.key in equivalent and kind == "killed":
            print(f"{result['test']} notices, so that it is not equivalent: {change.key}")
        if kind == "killed":
            kind = "slow" if result["stage"] == "slow" else "quick"
        elif change.key in equivalent:
            kind = "equivalent"
        else:
            print(f"{kind}: {change.key}")
        counts[change.path][kind] += 1
        counts["all"][kind] += 1
    kinds = ("quick", "slow", "timeout", "equivalent", "survived")
    names = ("quick tests", "slow tests", "endless", "equivalent", "unexplained")
    rows = [["file", "changes", *names]]
    for path in (*SCOPE, "all"):
        found = counts[path]
        if found.total():
            rows.append([path, str(found.total()), *(str(found[kind]) for kind in kinds)])
    table = as_table(rows)
    print(table)
    if tried and not counts["all"]["not tried"] + counts["all"]["broken"]:
        replace_in_page("changes", table, tried)


# -- Promises --------------------------------------------------------------------------


@dataclass(frozen=True)
class PromisedChange:
    """A change that breaks a promise of SECURITY.md, and the tests that notice."""

    row: str  # how the row begins
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def key(self) -> str:
        change = f"{self.row}\n{self.path}\n- {self.old.strip()}\n+ {self.new.strip()}"
        return "\n".join([change, *self.tests])

    def applied_to(self, source: str) -> str:
        """Return the source with the change.

        Raises:
            ValueError: it has the old text not exactly once.
        """
        if source.count(self.old) != 1:
            raise ValueError(f"{self.path} has it {source.count(self.old)} times: {self.old}")
        return source.replace(self.old, self.new)


def promised_changes() -> list[PromisedChange]:
    return [
        PromisedChange(promise["row"], **(change | {"tests": tuple(change["tests"])}))
        for promise in tomllib.loads(PROMISES.read_text())["promise"]
        for change in promise["changes"]
    ]


def write_promises(results: dict[str, dict[str, Any]], commit: str) -> None:
    rows = [["promise", "changes", "noticed by"]]
    by_row: defaultdict[str, list[PromisedChange]] = defaultdict(list)
    for change in promised_changes():
        by_row[change.row].append(change)
    for row, changes in by_row.items():
        found = [results.get(change.key, {}) for change in changes]
        killed = [result["test"] for result in found if result.get("outcome") == "killed"]
        tests = sorted({test.partition("[")[0].rpartition("::")[2] for test in killed})
        noticed = "" if len(killed) == len(changes) else f"{len(killed)} of "
        rows.append([f"{row} …", f"{noticed}{len(changes)}", ", ".join(f"`{t}`" for t in tests)])
    replace_in_page("promises", as_table(rows), commit)


# -- The page --------------------------------------------------------------------------


def as_table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def replace_in_page(name: str, table: str, tried: str) -> None:
    """Put a table between its two comments in the page; `tried` is the commit, and more."""
    line = f"At {tried}, {datetime.now(UTC):%Y-%m-%d}:"
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = PAGE.read_text().partition(start)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{start}\n{line}\n\n{table}\n{end}{after}")
