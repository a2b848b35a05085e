"""SECURITY.md: each promise names its tests, and changes that they notice are on record.

`python -m mutation promises` makes these changes.
"""

import re
import tomllib

import pytest

from tests.helpers import ROOT

ROWS = [
    line
    for line in (ROOT / "SECURITY.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| promise")
]
PROMISES = tomllib.loads((ROOT / "mutation" / "promises.toml").read_text())["promise"]
CHANGES = [(promise["row"], change) for promise in PROMISES for change in promise["changes"]]


def named(row):
    """Return the files of tests and benchmarks that a row names."""
    return re.findall(r"`((?:tests|benchmarks)/\w+\.py)`", row.split("|")[2])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:50])
def test_each_promise_names_tests_that_exist(row):
    assert any(name.startswith("tests/") for name in named(row))
    assert all((ROOT / name).is_file() for name in named(row))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:50])
def test_each_promise_has_a_change_that_breaks_it(row):
    broken = [promise for promise in PROMISES if row.startswith(f"| {promise['row']}")]
    assert len(broken) == 1
    assert broken[0]["changes"]


def test_each_entry_is_about_one_row_of_security_md():
    begun = [sum(row.startswith(f"| {promise['row']}") for row in ROWS) for promise in PROMISES]
    assert begun == [1] * len(PROMISES)


@pytest.mark.parametrize(("begins", "change"), CHANGES, ids=range(len(CHANGES)))
def test_each_change_can_be_made_and_names_tests_of_its_promise(begins, change):
    assert (ROOT / change["path"]).read_text().count(change["old"]) == 1
    assert change["new"] != change["old"]
    (row,) = (row for row in ROWS if row.startswith(f"| {begins}"))
    assert change["tests"]
    for test in change["tests"]:
        file, _, name = test.partition("::")
        assert file in named(row)
        assert not name or f"\ndef {name}(" in (ROOT / file).read_text()
