"""The apps on real nodes: the same bits as on the local engine, losses that are recorded, nothing left behind."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flwr.app import Message, Metadata, RecordDict

from fedsim.core import supervisor
from fedsim.core.errors import FedsimError
from fedsim.core.supervisor import descendants
from fedsim.federation import engines
from fedsim.federation.engines import superlink
from fedsim.federation.journal import ServerLog
from fedsim.processes.child_process import ChildProcess
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.experiment.running import Build

Start = Callable[..., Any]


def ports_of(commands: dict[int, str]) -> set[int]:
    """Return every port that a command line opens."""
    words = [command.split() for command in commands.values()]
    return {int(after) for line in words for word, after in itertools.pairwise(line) if word == "--port"}


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def the_one(commands: dict[int, str], *words: str) -> int:
    """Return the id of the one process whose command line holds these words."""
    (found,) = all_of(commands, *words)
    return found


def all_of(commands: dict[int, str], *words: str) -> list[int]:
    """Return the ids of the processes whose command lines hold these words, without supervisors."""
    return [
        process
        for process, command in commands.items()
        if all(word in command for word in words) and supervisor.__file__ not in command
    ]


@pytest.mark.slow
def test_real_nodes_give_the_bits_of_the_local_engine_and_leave_nothing(
    start: Start, small: Scenario, running: ModuleType
) -> None:
    engine = start("superlink", small)
    assert engine.next_line() == "round 1"
    ports = ports_of(engine.descendants())
    assert len(ports) == 1 + 4
    assert all(is_open(port) for port in ports)
    error, journal = engine.end(timeout=300)
    assert error is None
    running.assert_same(journal, small)
    assert not any(is_open(port) for port in ports)


@pytest.mark.slow
def test_a_node_that_dies_in_a_round_is_a_failure_of_that_round_and_the_run_goes_on(
    start: Start, scenario: Build
) -> None:
    built = scenario(
        federation={"clients": 3, "rounds": 3},
        participation={"timeout": 40},
        threat={"rounds": [1, 2, 3], "victims": 3},
    )
    engine = start("superlink", built)
    assert engine.next_line() == "round 1"
    os.kill(the_one(engine.descendants(), "flower-supernode", "partition-id=1"), signal.SIGKILL)
    error, journal = engine.end(timeout=400)
    assert error is None
    assert journal.rounds[0].failures == ()
    for record in journal.rounds[1:]:  # the timeout ends a round, or the SuperLink has missed the node's heartbeats
        (failure,) = record.failures
        assert failure.subject == "client 1"
        assert failure.reason == "no reply" or "Node Unavailable" in failure.reason
    assert [(entry.round, entry.client) for entry in journal.entries] == [
        (round_, client) for round_ in (1, 2, 3) for client in range(3) if round_ == 1 or client != 1
    ]


@pytest.mark.slow
def test_a_superlink_that_dies_is_an_error_with_the_end_of_its_log(start: Start, scenario: Build) -> None:
    engine = start("superlink", scenario(federation={"clients": 1, "rounds": 50}))
    assert engine.next_line() == "round 1"
    os.kill(the_one(engine.descendants(), "flower-superlink"), signal.SIGKILL)
    error, journal = engine.end(timeout=120)
    assert "the SuperLink ended with exit code -9. The end of its log:\n" in error
    assert len(journal.rounds) < 50


@pytest.mark.slow
def test_an_interrupt_ends_every_process(start: Start, scenario: Build) -> None:
    engine = start("superlink", scenario(federation={"clients": 1, "rounds": 50}))
    assert engine.next_line() == "round 1"
    engine.release()
    engine.process.send_signal(signal.SIGINT)
    error, journal = engine.end(timeout=60)
    assert error == "interrupted"
    assert len(journal.rounds) < 50


SCENARIO = """\
title = "one node that stands still"
[data]
name = "digits"
[model]
name = "mlp"
width = 8
depth = 1
[federation]
algorithm = "fedavg"
clients = 1
rounds = 2
batch_size = 4
engine = "superlink"
"""


@pytest.mark.slow
def test_one_interrupt_ends_a_command_that_waits_for_a_node(tmp_path: Path, running: ModuleType) -> None:
    """The node stands still, so the round would last the ten minutes of `participation.timeout`."""
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    mark = "fedsim-test-waiting"
    process = subprocess.Popen(
        [sys.executable, "-m", "fedsim", "run", "scenario.toml", "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "FEDSIM_TEST_MARK": mark, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    engine = running.Engine(process, mark, tmp_path, tmp_path)
    try:
        while not (nodes := all_of(engine.descendants(), "--node-config")):
            assert process.poll() is None
            time.sleep(0.1)
        os.kill(nodes[0], signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert "Interrupted before the first result." in output
    assert engine._left() == {}


class Stopped(Exception):
    """Somebody asked to stop."""


def stop() -> None:
    raise Stopped


def test_who_waits_for_a_port_or_for_replies_looks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = superlink._Deployment("127.0.0.1:1", stop)
    with pytest.raises(Stopped):
        superlink._await_port(deployment, 1)
    grid = superlink._NodeGrid.__new__(superlink._NodeGrid)
    grid._deployment = deployment
    monkeypatch.setattr(grid, "push_messages", lambda messages: ["1" for _ in messages])
    monkeypatch.setattr(grid, "pull_messages", lambda _ids: [])
    metadata = Metadata(1, "", 1, 2, "", "", 0.0, 1.0, "train")
    with pytest.raises(Stopped):
        # The overload that keeps the metadata is not among Flower's declared ones.
        grid.send_and_receive([Message(RecordDict(), metadata=metadata)])  # pyright: ignore[reportCallIssue]
    with pytest.raises(Stopped):
        grid.get_node_ids()


def test_link_and_nodes_end_together(tmp_path: Path) -> None:
    sleepers = [
        superlink._Process(name, tmp_path, ChildProcess(["/bin/sleep", "600"], stdin=None, stdout=None))
        for name in ("link", "first", "second")
    ]
    while not all(descendants(sleeper.child.pid) for sleeper in sleepers):
        time.sleep(0.02)
    superlink._Deployment("127.0.0.1:1", link=sleepers[0], nodes=sleepers[1:]).stop()
    assert [sleeper.child.code for sleeper in sleepers] == [-signal.SIGKILL] * 3


@pytest.fixture
def somebody_elses(tmp_path: Path) -> Iterator[str]:
    """A SuperLink and two nodes, started as docs/federation.md says; yields its address."""
    link, *nodes = superlink._free_ports(3)
    scripts, address = Path(sysconfig.get_path("scripts")), f"127.0.0.1:{link}"
    common = ["--insecure", "--host", "127.0.0.1", "--port"]
    commands = [["flower-superlink", "--isolation", "process", *common, str(link)]]
    for number, port in enumerate(nodes):
        about = f"partition-id={number} num-partitions=2"
        commands += [["flower-supernode", "--superlink", address, "--node-config", about, *common, str(port)]]
    with contextlib.ExitStack() as stack:
        for number, (program, *arguments) in enumerate(commands):
            environment = {
                **os.environ,
                "FLWR_HOME": str(tmp_path / f"site-{number}"),
                "PATH": os.pathsep.join([str(scripts), os.environ["PATH"]]),
                "PYTHONPATH": str(Path(superlink.__file__).parents[3]),
            }
            process = subprocess.Popen(
                [str(scripts / program), *arguments],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(process.wait, 30)
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            if number == 0:
                wait_for(link)
        yield address


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while not is_open(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_nodes_of_somebody_else_give_the_bits_of_the_local_engine_and_go_on_running(
    start: Start, somebody_elses: str, scenario: Build, running: ModuleType
) -> None:
    built = scenario(federation={"clients": 2, "rounds": 1})
    error, journal = start("superlink", _at(built, somebody_elses)).end(timeout=180)
    assert error is None
    running.assert_same(journal, built)
    assert is_open(int(somebody_elses.rpartition(":")[2]))


def test_a_node_that_cannot_start_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    node = superlink._Process.start("the SuperNode of client 0", ["flower-supernode", "--nonsense"], tmp_path / "node")
    assert node.child.wait(60) != 0
    with pytest.raises(FedsimError, match=r"(?s)SuperNode of client 0 ended with exit code 2.*arguments: --nonsense"):
        superlink._Deployment("127.0.0.1:1", nodes=[node]).check()


def _at(scenario: Scenario, address: str) -> Scenario:
    federation = scenario.federation.model_copy(update={"engine": "superlink", "address": address})
    return scenario.model_copy(update={"federation": federation})


def test_certificates_that_cannot_be_read_are_a_mistake_of_a_key(small: Scenario, tmp_path: Path) -> None:
    built = _at(small, "127.0.0.1:1")
    federation = built.federation.model_copy(update={"certificates": str(tmp_path / "ca.pem")})
    with pytest.raises(FedsimError, match=r"federation.certificates: cannot read .*ca.pem: No such file"):
        engines.run(worlds.build(built.model_copy(update={"federation": federation})), ServerLog(lambda _record: None))


def test_an_address_without_a_superlink_is_told_at_once(small: Scenario) -> None:
    with pytest.raises(FedsimError, match=r"the SuperLink at 127.0.0.1:1 .*docs/federation.md"):
        engines.run(worlds.build(_at(small, "127.0.0.1:1")), ServerLog(lambda _record: None))
