"""An engine at work in a process of its own, and the comparison of what it tells with the local engine."""

import json
import os
import pickle
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedsim.experiment.runner import model_hash, train
from fedsim.federation.journal import ServerLog
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

RUNNER = """
import importlib, json, pickle, sys
from pathlib import Path
from fedsim.core import process
process.prepare()
import torch
from fedsim.core.errors import FedsimError
from fedsim.federation import apps
from fedsim.federation.journal import ServerLog
from fedsim.scenario import Scenario, world
engine, settings, scenario, result = sys.argv[1:]
torch.set_num_threads(1)


def tell(record):
    print("round", record.round, flush=True)
    sys.stdin.readline()


journal = ServerLog(tell)
try:
    serve = importlib.import_module(f"fedsim.federation.engines.{engine}").serve
    built = world.build(Scenario.model_validate_json(Path(scenario).read_text()))
    serve(built, apps.server_app(built, journal), built.scenario.federation.clients, **json.loads(settings))
    error = None
except FedsimError as caught:
    error = str(caught)
except KeyboardInterrupt:
    error = "interrupted"
Path(result).write_bytes(pickle.dumps((error, journal.rounds, journal.entries, journal.weights)))
"""


@dataclass
class Engine:
    """An engine in a subprocess, which waits after each round until `release` or `end` is called.

    Its own subprocesses inherit a mark in their environment, by which they are found.
    """

    process: subprocess.Popen[str]
    mark: str
    home: Path
    result: Path

    @classmethod
    def start(cls, folder: Path, name: str, scenario: Scenario, settings: dict[str, Any]) -> "Engine":
        home, mark = folder / "home", f"fedsim-test-{uuid.uuid4()}"
        home.mkdir()
        written, result = folder / "scenario.json", folder / "result.pickle"
        written.write_text(scenario.model_dump_json())
        arguments = [name, json.dumps(settings), str(written), str(result)]
        process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, *arguments],
            env={**os.environ, "HOME": str(home), "FEDSIM_TEST_MARK": mark, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return cls(process, mark, home, result)

    def next_line(self) -> str:
        return self.process.stdout.readline().strip()

    def release(self) -> None:
        """Let the engine go on, without a pause after later rounds."""
        self.process.stdin.close()
        self.process.stdin = None

    def end(self, timeout: float) -> tuple[str | None, ServerLog]:
        """Release the engine, wait for its end, check that nothing is left, and return the error and the journal."""
        try:
            output, _ = self.process.communicate(timeout=timeout)
        finally:
            self.process.kill()
        assert self.process.returncode == 0, output
        assert self._left() == {}
        assert not (self.home / ".flwr").exists()
        error, rounds, entries, weights = pickle.loads(self.result.read_bytes())
        return error, ServerLog(lambda _record: None, rounds, entries, weights)

    def _left(self) -> dict[int, str]:
        """Return what still runs after a grace period: the last of Ray's actors ends after its driver."""
        deadline = time.monotonic() + 15
        while (left := self.descendants()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def descendants(self) -> dict[int, str]:
        """Return id and command line of every process that the engine started and that has not ended."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                is_ours = self.mark.encode() in (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if is_ours and int(folder.name) != self.process.pid:
                found[int(folder.name)] = command
        return found


def assert_same(journal: ServerLog, scenario: Scenario) -> None:
    """Compare everything that a journal holds with the local engine's, bit by bit."""
    local = train(worlds.build(scenario), lambda _record: None)
    assert model_hash(journal.weights) == model_hash(local.weights)
    assert journal.rounds == local.rounds
    assert len(journal.entries) == len(local.entries) > 0
    for ours, theirs in zip(journal.entries, local.entries, strict=True):
        assert (ours.round, ours.client, ours.update.kind) == (theirs.round, theirs.client, theirs.update.kind)
        assert (ours.update.examples, ours.update.loss) == (theirs.update.examples, theirs.update.loss)
        for mine, other in (
            (ours.received_weights, theirs.received_weights),
            (ours.update.tensors, theirs.update.tensors),
            (ours.update.buffers, theirs.update.buffers),
        ):
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[name], other[name]) for name in mine)
