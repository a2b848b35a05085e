"""Two devices of a user log in, renew, log out and end each other at the same moment."""

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from tests.helpers import basic, bearer

pytestmark = pytest.mark.slow

ROUNDS = 1000
OPERATIONS = ["use", "renew", "log out", "end the other", "end all others"]
SETTINGS = {"LOGIN_LIMIT_PER_SOURCE": "100000 per hour"}


@pytest.fixture
def nodes(server_with):
    """Two servers on one database."""
    return server_with(**SETTINGS), server_with(**SETTINGS)


def log_in_at(node, name, device):
    answer = node.request("POST", "/api/tokens", headers=basic(name), json_body={"device": device})
    assert answer.status == 200, answer.json
    return answer.json["token"]


def is_live(nodes, token):
    """Whether the token opens a request: both nodes must agree."""
    statuses = {
        node.request("GET", "/api/users/me", headers=bearer(token)).status for node in nodes
    }
    assert statuses in ({200}, {401})
    return statuses == {200}


def operate(node, operation, own, id_of_other):
    """Return the status of an operation of the device with the token `own`."""
    method, path = {
        "use": ("GET", "/api/users/me"),
        "renew": ("PUT", "/api/tokens"),
        "log out": ("DELETE", "/api/tokens"),
        "end the other": ("DELETE", f"/api/sessions/{id_of_other}"),
        "end all others": ("DELETE", "/api/sessions"),
    }[operation]
    return node.request(method, path, headers=bearer(own)).status


def test_1000_interleavings_of_two_devices_end_what_they_say_and_nothing_else(
    nodes, alice, bob, log_in
):
    chance = random.Random(20261122)
    pairs = list(itertools.product(OPERATIONS, repeat=2))
    others = [log_in("bob"), log_in_at(nodes[0], "bob", "phone")]
    ended = []
    with ThreadPoolExecutor(2) as threads:
        for number in range(ROUNDS):
            operations = pairs[number % len(pairs)]
            shared = log_in("alice")
            devices = [log_in_at(node, "alice", "phone") for node in nodes]
            listed = nodes[0].request(
                "GET", "/api/sessions?per_page=100", headers=bearer(devices[0])
            )
            *_, first, second = (one["id"] for one in listed.json["items"])
            start = Barrier(2)

            def run(
                which, start=start, operations=operations, devices=devices, ids=(second, first)
            ):
                node = chance.choice(nodes)
                start.wait()
                return operate(node, operations[which], devices[which], ids[which])

            statuses = list(threads.map(run, range(2)))
            was_done = [status in {200, 204} for status in statuses]
            # A device is refused only if the other one has ended it, or it is gone already.
            for which, (operation, status) in enumerate(zip(operations, statuses, strict=True)):
                by_other = was_done[1 - which] and operations[1 - which].startswith("end ")
                assert (
                    was_done[which]
                    or (status == 401 and by_other)
                    or (status == 404 and operation == "end the other")
                ), (operations, statuses)
            assert operations != ("end all others",) * 2 or sorted(statuses) == [204, 401]
            for which, token in enumerate(devices):
                out = was_done[which] and operations[which] == "log out"
                by_other = was_done[1 - which] and operations[1 - which].startswith("end ")
                assert is_live(nodes, token) is not (out or by_other), (operations, statuses)
                nodes[1].request("DELETE", "/api/tokens", headers=bearer(token))
            ended += devices
            is_ended = any(
                done and operation == "end all others"
                for done, operation in zip(was_done, operations, strict=True)
            )
            assert is_live(nodes, shared) is not is_ended
            if number % 50 == 0:
                assert all(is_live(nodes, token) for token in others)
                assert not any(is_live(nodes, token) for token in ended[-20:])
    assert all(is_live(nodes, token) for token in others)
    assert not any(is_live(nodes, token) for token in ended)


def test_of_many_log_ins_at_once_no_more_stay_than_allowed(server_with, alice):
    most = 3
    nodes = [server_with(**SETTINGS, SESSIONS_PER_USER=str(most)) for _ in range(2)]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(10):
            texts = list(
                threads.map(lambda number: log_in_at(nodes[number % 2], "alice", "x"), range(16))
            )
            live = [text for text in texts if is_live(nodes, text)]
            assert len(live) == most
            answer = nodes[0].request("GET", "/api/sessions", headers=bearer(live[0]))
            assert answer.json["_meta"]["total_items"] == most
