"""Faults of the database under load. The long runs: `python -m benchmarks.faults`."""

import pytest

from benchmarks import faults

pytestmark = pytest.mark.slow


def assert_served(load):
    """Every request had an answer in JSON, no 500, and no acknowledged write is lost."""
    assert load.failed + load.no_answer + load.no_json + load.lost == [], load
    assert load.statuses[200] > 0
    assert load.statuses[201] > 0
    assert "Traceback" not in "".join(line for server in load.servers for line in server.output)


def test_connections_that_are_ended_under_load_fail_no_request_but_with_503():
    assert_served(faults.terminate(30))


def test_a_database_that_crashes_under_load_loses_no_acknowledged_write():
    load = faults.restart(2)
    assert_served(load)
    assert load.statuses[503] > 0
