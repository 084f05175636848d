"""The apps on real nodes: the same bits as on the local engine, losses that are recorded, nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedsim.engines import superlink
from fedsim.errors import FedsimError
from fedsim.journal import MemoryJournal
from fedsim.record import Failure
from fedsim.scenario import Scenario
from tests.engines.conftest import Start, assert_same

pytestmark = pytest.mark.slow


def ports_of(commands: dict[int, str]) -> set[int]:
    """Return every port that a command line names."""
    words = [command.split() for command in commands.values()]
    return {int(after) for line in words for word, after in zip(line, line[1:], strict=False) if word == "--port"}


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_real_nodes_give_the_bits_of_the_local_engine_and_leave_nothing(start: Start, small: Scenario) -> None:
    engine = start("superlink", small)
    assert engine.next_line() == "round 1"
    ports = ports_of(engine.descendants())
    assert len(ports) == 1 + 4
    assert all(is_open(port) for port in ports)
    error, journal = engine.end(timeout=300)
    assert error is None
    assert_same(journal, small)
    assert not any(is_open(port) for port in ports)


def test_a_node_that_dies_in_a_round_is_a_failure_of_that_round_and_the_run_goes_on(
    start: Start, scenario: Callable[..., Scenario]
) -> None:
    built = scenario(federation={"clients": 3, "rounds": 3}, threat={"rounds": [1, 2, 3], "victims": 3})
    engine = start("superlink", built, timeout=40)
    assert engine.next_line() == "round 1"
    (node,) = [i for i, command in engine.descendants().items() if "supernode" in command and "partition-id=1" in command]
    os.kill(node, signal.SIGKILL)
    error, journal = engine.end(timeout=400)
    assert error is None
    assert [record.failures for record in journal.rounds[:2]] == [(), (Failure(who="client 1", why="no reply"),)]
    (failure,) = journal.rounds[2].failures
    assert failure.who == "client 1"
    assert [(entry.round, entry.client) for entry in journal.entries] == [
        (round_, client) for round_ in (1, 2, 3) for client in range(3) if round_ == 1 or client != 1
    ]
