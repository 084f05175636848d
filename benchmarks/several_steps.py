"""Updates of several local steps of SGD, solved step by step: how many images come back, and how long it takes.

Untrained models, labels inferred, masks unknown; seconds are those of one core. MNIST; for the transformer 20
photographs. Without ``--full``: 3 victims a setting (about ten minutes). With it: 10 victims a setting. Settings of
means hold their 95 % interval by bootstrap.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Mapping  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402

from benchmarks._rows import Row, as_line, averaged, main, measured  # noqa: E402
from benchmarks._victims import DIGITS, KNOWN, PHOTOGRAPHS  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.types import WireEntry  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import shared  # noqa: E402
from fedsim.threat import victim as observed  # noqa: E402
from fedsim.threat.observe import observe  # noqa: E402

_ATTACK = "step-by-step"
_RIGHT = 1e-3  # root mean square error of a pixel in [0, 1]: 60 dB
_ALL, _FEW = 10, 3
MLP: Mapping[str, Any] = {"name": "mlp"}
VIT: Mapping[str, Any] = {"name": "vit-small", "patch": 8, "width": 256, "blocks": 2}


class Case(NamedTuple):
    """A client's training."""

    steps: int
    batch_size: int
    rate: float = 0.05
    momentum: float = 0.0
    bias: bool = False
    dropout: float = 0.5
    must: str = ""
    seconds: str = ""
    model: Mapping[str, Any] = MLP

    @property
    def setting(self) -> str:
        """How its rows name it."""
        bias = "with" if self.bias else "without"
        network = f"MLP {bias} bias" if self.model is MLP else "small ViT of patch 8 and width 256, CIFAR-10"
        return (
            f"{network}, p = {self.dropout:g}, {self.steps} steps of SGD, batch {self.batch_size}, "
            f"step size {self.rate:g}, momentum {self.momentum:g}"
        )

    @property
    def data(self) -> Mapping[str, Any]:
        """Data set and clients that share it."""
        return DIGITS if self.model is MLP else PHOTOGRAPHS


CASES = (
    Case(2, 8),
    Case(5, 8, must=">= 0.9", seconds="< 30"),
    Case(5, 8, bias=True, must=">= 0.9", seconds="< 30"),
    Case(5, 8, rate=0.2),
    Case(5, 8, momentum=0.9),
    Case(5, 8, dropout=0.25),
    Case(10, 4),
    Case(20, 2),
    *(Case(steps, 1, rate=0.2, model=VIT) for steps in (2, 3)),
    *(Case(2, 1, rate=rate, model=VIT) for rate in (0.05, 0.01)),
)


def measure(full: bool) -> list[Row]:
    """Return the rows of the short or the long version."""
    rows: list[Row] = []
    for case in CASES:
        for row in _rows(case, _ALL if full else _FEW):
            print(as_line(row), file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def _rows(case: Case, victims: int) -> Iterator[Row]:
    setting = case.setting
    shares, explained, seconds = zip(*_attacked(case, victims), strict=True)
    yield averaged("images above 60 dB", setting, shares, "share", case.must)
    yield averaged("updates that the steps explain exactly", setting, explained, "share", "")
    yield measured("processor seconds an update", setting, seconds, "s", case.seconds)


def _attacked(case: Case, victims: int) -> Iterator[tuple[float, float, float]]:
    """Yield the share of images that came back, whether they explain the update, and the seconds, of each victim."""
    world = shared(parse(_tables(case), "benchmark").model_dump_json())
    received, method = world.models.first_weights, registry.get("attack", _ATTACK)
    for client in range(min(victims, world.scenario.federation.clients)):
        update, truth = local_training(world, received, 1, client)
        seen = observe(observed.Victim(world, WireEntry(1, client, received, update), truth), KNOWN)
        begin = time.process_time()
        guess = method.make(method.config())(seen, seeding.generator(1, "attack", client))
        seconds = time.process_time() - begin
        scale = torch.tensor(world.data.dataset.spec.std, dtype=torch.float64)[:, None, None]
        true = (scale * torch.cat([batch.inputs for batch in truth.batches])).flatten(1)
        found = (scale * guess.inputs).flatten(1)
        near = torch.cdist(true, found) / true.shape[1] ** 0.5 < _RIGHT
        share = float(near.any(1).double().mean()) if len(found) else 0.0
        yield share, float(guess.is_exact), seconds


def _tables(case: Case) -> Mapping[str, Any]:
    optimizer = {"name": "sgd", "learning_rate": case.rate, "momentum": case.momentum}
    return {
        "title": "benchmark",
        "seed": 5,
        "data": dict(case.data),
        "model": {**case.model, **({"bias": case.bias} if case.model is MLP else {}), "dropout": case.dropout},
        "federation": {
            "clients": 20 // (case.steps * case.batch_size) if case.data is PHOTOGRAPHS else 20,
            "batch_size": case.batch_size,
            "algorithm": "fedavg",
            "local_steps": case.steps,
            "optimizer": optimizer,
        },
    }


if __name__ == "__main__":
    main(measure, __doc__ or "")
