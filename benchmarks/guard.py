"""What a node's guard adds to each message: its own work, the ledger, and the walls around an app.

Seconds are those of a clock: other programs lengthen them. The app does nothing, so that its process takes what
starting it takes; Flower starts one for each message too.
"""

from __future__ import annotations

import secrets
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from flwr.app import ArrayRecord, Context, Metadata, RecordDict

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, median_row
from fedsim.core.foreign.flower.app_files import build_fab_from_files
from fedsim.core.foreign.flower.messages import message_with
from fedsim.core.types import Tensors
from fedsim.guard.app_command import check_sandbox
from fedsim.guard.policy import AppsTable, BudgetTable, GuardPolicy, MandatoryDefense, MessagesTable, NodeTable
from fedsim.guard.private_reply import ReplyPrivatizer
from fedsim.guard.running import AppProcesses, AppTask
from fedsim.privacy.ledger import Ledger

_REPEATS = 5
_PARAMETERS = (10_000, 10_000_000)
_ENTRIES = (0, 1000)
_FILES = {
    "pyproject.toml": b"""
[project]
name = "still"
version = "1.0.0"
[tool.flwr.app]
publisher = "fedsim"
[tool.flwr.app.components]
serverapp = "still.client:app"
clientapp = "still.client:app"
""",
    "still/__init__.py": b"",
    "still/client.py": b"""
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(message, context):
    return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)
""",
}


@experiment("guard", minutes=3, page="guard")
def guard(budget: Budget) -> Cells:
    """Return a cell for the ledger, and one for each size of a model."""
    repeats = 5 * _REPEATS if budget.full else _REPEATS
    sizes = {f"{parameters:,} parameters": partial(_size_rows, parameters, repeats) for parameters in _PARAMETERS}
    return {"ledger": partial(_ledger_rows, repeats), **sizes}


def _ledger_rows(repeats: int) -> Iterator[Row]:
    for entries in _ENTRIES:
        with tempfile.TemporaryDirectory() as name:
            policy, ledger = _site(Path(name))
            mechanisms = [mod.mechanism for mod in policy.mods() if mod.mechanism is not None]
            reserve = partial(ledger.reserve, "site", mechanisms, policy.budget.allowance, {"run": "1"})
            for _ in range(entries + 1):  # the first call loads what accounts
                reserve()
            times = [_milliseconds(reserve) for _ in range(repeats)]
            yield median_row("reserving a round", f"after {entries:,} entries", times, "ms")


def _size_rows(parameters: int, repeats: int) -> Iterator[Row]:
    setting = f"{parameters:,} parameters"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy, ledger = _site(folder)
        order, cover = _order(parameters), ReplyPrivatizer(policy, ledger)
        times = [
            _milliseconds(lambda: cover.answer(order.message, "a" * 64, _echo_weights)) for _ in range(repeats + 1)
        ]
        yield median_row("the guard's own work", setting, times[1:], "ms")
        received = order.message.content.array_records["arrays"].to_torch_state_dict()
        kinds: tuple[Literal["none", "sandbox"], ...] = ("none", "sandbox")
        for isolation in kinds:
            apps = AppsTable(sha256="any", isolation=isolation)
            check_sandbox(apps)
            processes = AppProcesses(apps, folder)
            times = [_milliseconds(lambda app=processes: app.run(order, received)) for _ in range(repeats)]
            yield median_row(f"an app's process, isolation {isolation}", setting, times, "ms")


def _site(folder: Path) -> tuple[GuardPolicy, Ledger]:
    policy = GuardPolicy(
        subject="site",
        ledger=folder / "ledger.jsonl",
        key=folder / "ledger.key",
        node=NodeTable(address="127.0.0.1:1", secret=folder / "secret"),
        budget=BudgetTable(epsilon=50.0, delta=1e-5),
        apps=AppsTable(sha256="any"),
        defenses=(MandatoryDefense(name="local-dp", settings={"clip": 1.0, "noise_multiplier": 400.0}),),
        messages=MessagesTable(rounds=10_000),
    )
    return policy, Ledger.open(policy.ledger, policy.key)


def _order(parameters: int) -> AppTask:
    weights = torch.randn(parameters // 100, 100, generator=torch.Generator().manual_seed(0))
    metadata = Metadata(1, secrets.token_hex(8), 1, 2, "", "", time.time(), 1e6, "train")
    content = RecordDict({"arrays": ArrayRecord({"weight": weights})})
    message = message_with(content, metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a package that Flower uses
        fab = build_fab_from_files(_FILES)[0]
    return AppTask(message, Context(1, 2, {}, RecordDict(), {}), 1, fab)


def _echo_weights(received: Tensors) -> Tensors:
    return received


def _milliseconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - begin)
