"""A guard that is killed at any moment: whatever was sent was reserved before, and was private."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedsim.guard.policy import read_policy
from fedsim.privacy.ledger import Ledger
from tests.guard import site

ROOT = Path(__file__).parents[2]
KILLS = 20
# Guards begin as copies of a process that has loaded all that they need.
KILLING = """
import os, signal, struct, sys, time
from pathlib import Path

from flwr.app import Context, Message, Metadata, RecordDict

from fedsim.guard.policy import read_policy
from fedsim.guard.running import AppProcesses, AppTask
from fedsim.guard.serving import Guard
from fedsim.privacy.accounting import Spent, epsilon
from fedsim.privacy.ledger import Ledger
from tests.guard import site

AppProcesses.run = lambda _self, _order, received: {n: t + 1000.0 for n, t in received.items()}
folder, kills = Path(sys.argv[1]), int(sys.argv[2])
rules = read_policy(folder / "guard.toml")


class Task:
    is_known = True

    def __init__(self, name, category):
        self.name = f"{category}-{name}"
        metadata = Metadata(5, self.name, 1, 7, "", "3", time.time(), 3600.0, category)
        message = Message(site.content(), metadata=metadata)
        self.order = AppTask(message, Context(5, 7, {}, RecordDict(), {}), 9, b"fab")

    def send(self, reply):
        if self.name.startswith("train"):
            numbers = reply.content["arrays"]["w"].numpy().tobytes()
        else:
            numbers = struct.pack("d", reply.content["metrics"]["accuracy"])
        (folder / "part").write_bytes(numbers)
        (folder / "part").replace(folder / "sent" / self.name)  # the server sees all of it or nothing


def answer(kill):
    guard = Guard(rules, Ledger.open(rules.ledger, rules.key), folder, lambda _line: None)
    for number in range(10**6):
        guard.handle(Task(f"{kill}-{number}", ("train", "evaluate")[number % 2]))


epsilon([Spent(2.0, 1.0, 1)], 1e-5)  # loads what takes seconds
for kill in range(kills):
    child = os.fork()
    if child == 0:
        answer(kill)
    while not (folder / "sent" / f"train-{kill}-0").exists():
        time.sleep(0.001)
    time.sleep(kill / kills / 4)  # each time at another moment within a few messages
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_twenty_kills_lose_no_spending_and_send_nothing_that_is_not_private(tmp_path: Path) -> None:
    noise = {"name": "local-dp", "clip": site.NOISE / 1000, "noise_multiplier": 1000.0}  # for many messages
    accuracy = {"low": 0.0, "high": 1.0, "noise_multiplier": 1000.0}
    rules = {"rounds": 10**6, "types": ["train", "evaluate"], "evaluate": "run"}
    site.policy(tmp_path, defenses=[noise], messages=rules, metrics={"accuracy": accuracy})
    (tmp_path / "sent").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", KILLING, str(tmp_path), str(KILLS)], env=environment, check=True)
    rules = read_policy(tmp_path / "guard.toml")
    entries = Ledger.open(rules.ledger, rules.key).entries()
    reserved = {entry.about["message"] for entry in entries if entry.kind == "reserved"}
    sent = list((tmp_path / "sent").iterdir())
    assert len(sent) >= KILLS
    assert {path.name for path in sent} <= reserved
    evaluations = [path for path in sent if path.name.startswith("evaluate")]
    assert evaluations
    for path in evaluations:
        (figure,) = struct.unpack("d", path.read_bytes())
        assert figure not in (0.0, 0.5, 1.0)  # the app's figure is 1000, so 1 without noise
    for path in set(sent) - set(evaluations):
        numbers = np.frombuffer(path.read_bytes(), np.float32)
        assert abs(numbers).max() < 7 * site.NOISE  # of 2000 normal draws; the app's numbers are 1000
