"""Does CutMix help a small network on few images? Test accuracy, and how far accuracy on the training set is above it.

A small convolutional network on 500 digits for 40 epochs of batches of 32, one client, Adam; plain, Cutout, MixUp and
CutMix on every batch. Without ``--full`` 3 seeds, about five minutes on one core; with it 10. A row's value is the mean
over seeds; its interval is that of Student's t.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._rows import Row, as_they_come, half_width, main, measured  # noqa: E402
from fedsim.core import seeding  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import World, build  # noqa: E402

EXAMPLES, EPOCHS, BATCH = 500, 40, 32
CUTMIX = {"name": "cutmix", "probability": 1.0}
TRAININGS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "Cutout": [{**CUTMIX, "mode": "cutout"}],
    "MixUp": [{**CUTMIX, "mode": "mixup"}],
    "CutMix": [CUTMIX],
}


class Accuracy(NamedTuple):
    """Shares of right answers, in percent."""

    test: float
    train: float


def trained(name: str, seed: int, epochs: int = EPOCHS) -> Accuracy:
    """Train one network and judge it on the training images as they are, and on the test set."""
    world = build(
        parse(
            {
                "title": "accuracy",
                "seed": seed,
                "data": {"name": "mnist5k"},
                "partition": {"scheme": "resampled", "examples_per_client": EXAMPLES},
                "model": {"name": "convnet", "width": 8, "dropout": 0.0},
                "components": TRAININGS[name],
                "federation": {
                    "algorithm": "fedavg",
                    "clients": 1,
                    "local_epochs": epochs,
                    "batch_size": BATCH,
                    "optimizer": {"name": "adam", "learning_rate": 1e-3},
                },
            },
            "benchmark",
        )
    )
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    changes = {**update.tensors, **update.buffers}
    weights = {name: t - changes[name] if name in changes else t for name, t in world.models.first_weights.items()}
    share = world.data.shares[0]
    seen = Batch(world.data.dataset.train.inputs[share], world.data.dataset.train.labels[share])
    return Accuracy(_right(world, weights, world.data.dataset.test), _right(world, weights, seen))


def measure(full: bool) -> list[Row]:
    """Return the rows of every training."""
    return as_they_come(_rows(range(1, 11 if full else 4)))


def _rows(seeds: Sequence[int]) -> Iterator[Row]:
    setting = f"{EXAMPLES} digits, {EPOCHS} epochs"
    for name in TRAININGS:
        accuracies = [trained(name, seed) for seed in seeds]
        tests, gaps = (
            [accuracy.test for accuracy in accuracies],
            [accuracy.train - accuracy.test for accuracy in accuracies],
        )
        yield measured(f"{name}: test accuracy {_interval(tests)}", setting, tests, "%", "", statistics.mean(tests))
        yield measured(f"{name}: train-test gap {_interval(gaps)}", setting, gaps, "points", "", statistics.mean(gaps))


def _interval(values: Sequence[float]) -> str:
    """Return the 95% interval of the mean, as text."""
    half = half_width(values)
    return f"[{statistics.mean(values) - half:.1f}, {statistics.mean(values) + half:.1f}]"


@torch.no_grad()
def _right(world: World, weights: dict[str, Tensor], batch: Batch) -> float:
    with seeding.isolate_randomness(0):
        model: nn.Module = world.models.holding(weights).eval()
        answers = torch.cat([model(part).argmax(1) for part in batch.inputs.split(500)])
    return 100.0 * float((answers == batch.labels).double().mean())


if __name__ == "__main__":
    main(measure, __doc__ or "")
