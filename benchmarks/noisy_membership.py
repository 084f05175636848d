"""Do wrongly labelled records give themselves away less when a network forgets large losses or keeps a prefix?

MNIST-5k, 1,000 training images of which 40 % carry a wrong label, 4,000 other images with wrong labels of the same
law; a small convolutional network with D = 128 features, 30 epochs of SGD with momentum 0.9, batches of 50. An attacker
knows a record and its label and takes a low loss of the last model for membership. Cross-entropy is the control: it
must be seen to remember. Co-teaching (arXiv 2206.13140; the forget rate grows to 0.4 over 5 epochs) stands beside the
same two networks that forget nothing. A row's value is the mean over seeds; its interval is that of Student's t.
Without ``--full`` 5 seeds, about two minutes on one core; with it 20.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._rows import Row, as_they_come, half_width, main, measured  # noqa: E402
from fedsim.core import seeding  # noqa: E402
from fedsim.core.types import Batch, Memory  # noqa: E402
from fedsim.data.label_noise import noisy_labels  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.metrics.membership import separation  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import World, build  # noqa: E402

NOISE, EPOCHS, BATCH, STEP, RAMP = 0.4, 30, 50, 0.05, 5
NESTED = {"name": "nested-dropout", "eta": 10.0, "kept": 20}
FORGETTING = {"name": "co-teaching", "forget_rate": NOISE, "ramp": RAMP}
REMEMBERING = {"name": "co-teaching", "forget_rate": 0.0}


class Training(NamedTuple):
    """Components and dropout rate."""

    components: tuple[dict[str, Any], ...]
    dropout: float = 0.0


TRAININGS = {
    "cross-entropy": Training(()),
    "dropout 0.3": Training((), 0.3),
    "Nested Dropout": Training((NESTED,)),
    "two networks that forget nothing": Training((REMEMBERING,)),
    "Co-teaching": Training((FORGETTING,)),
    "Nested Dropout + Co-teaching": Training((NESTED, FORGETTING)),
}


class Leak(NamedTuple):
    """Area under the ROC curve and advantage on wrong labels, the area on right ones, and the test accuracy in %."""

    wrong: float
    advantage: float
    right: float
    accuracy: float


def world_of(training: Training, seed: int, *, noise: float = NOISE) -> World:
    """Return one client with all training images."""
    raw: dict[str, Any] = {
        "title": "noisy labels",
        "seed": seed,
        "data": {"name": "mnist5k", "test_fraction": 0.8},
        "model": {"name": "benchmarks._family_models:small_cnn", "dropout": training.dropout},
        "components": list(training.components),
        "federation": {
            "algorithm": "fedavg",
            "clients": 1,
            "batch_size": BATCH,
            "local_epochs": 1,
            "optimizer": {"name": "sgd", "learning_rate": STEP, "momentum": 0.9},
            "keep_optimizer_state": True,
        },
        "label_noise": {"rate": noise},
    }
    world = build(parse(raw, "benchmark"))
    world.check()
    return world


def leak_of(name: str, seed: int, epochs: int = EPOCHS) -> Leak:
    """Train, then attack the last model."""
    world = world_of(TRAININGS[name], seed)
    memory: Memory = {}
    weights = world.models.first_weights
    for epoch in range(1, epochs + 1):
        update, _ = local_training(world, weights, epoch, 0, memory)
        weights = {n: t - update.tensors[n] if n in update.tensors else t for n, t in weights.items()}
    model = world.models.holding(weights).eval()
    clean = world_of(TRAININGS["cross-entropy"], seed, noise=0.0).data.dataset
    others = _with_noise(clean.test, clean.class_names, seed)
    inside, outside = _losses(model, world.data.dataset.train), _losses(model, others)
    is_wrong = (world.data.dataset.train.labels != clean.train.labels, others.labels != clean.test.labels)
    wrong = _separated(inside[is_wrong[0]], outside[is_wrong[1]], seed)
    right = _separated(inside[~is_wrong[0]], outside[~is_wrong[1]], seed)
    accuracy = 100.0 * float((_answers(model, clean.test.inputs).argmax(1) == clean.test.labels).double().mean())
    return Leak(*wrong, right[0], accuracy)


def _with_noise(batch: Batch, class_names: Sequence[str], seed: int) -> Batch:
    generator = seeding.generator(seed, "others' label noise")
    return Batch(batch.inputs, noisy_labels(batch.labels, class_names, "symmetric", NOISE, generator))


def _losses(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(_answers(model, batch.inputs), batch.labels, reduction="none")


@torch.no_grad()
def _answers(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([model(part) for part in inputs.split(500)])


def _separated(inside: Tensor, outside: Tensor, seed: int) -> tuple[float, float]:
    """Return area under the curve and advantage of a threshold on the loss."""
    scores = -torch.cat([inside, outside])
    is_member = torch.arange(len(scores)) < len(inside)
    order = torch.randperm(len(scores), generator=seeding.generator(seed, "candidates"))
    separated = separation(scores[order], is_member[order], np.random.default_rng(seed), resamples=1)
    return separated.auc.value, separated.advantage


def measure(full: bool) -> Sequence[Row]:
    """Return the rows over five seeds, or over twenty."""
    return as_they_come(row for name in TRAININGS for row in _rows(name, range(20 if full else 5)))


def _rows(name: str, seeds: Sequence[int]) -> Iterator[Row]:
    leaks = [leak_of(name, seed) for seed in seeds]
    setting = f"1,000 images, {NOISE:.0%} symmetric noise, {EPOCHS} epochs"
    for what, unit, values in (
        ("AUC on wrong labels", "", [leak.wrong for leak in leaks]),
        ("advantage on wrong labels", "", [leak.advantage for leak in leaks]),
        ("AUC on right labels", "", [leak.right for leak in leaks]),
        ("test accuracy", "%", [leak.accuracy for leak in leaks]),
    ):
        must = "> 0.5" if (name, what) == ("cross-entropy", "AUC on wrong labels") else ""
        title = f"{name}: {what} {_interval(values)}"
        yield measured(title, setting, values, unit, must, statistics.mean(values))


def _interval(values: Sequence[float]) -> str:
    """Return the 95% interval of the mean, as text."""
    half = half_width(values)
    return f"[{statistics.mean(values) - half:.3g}, {statistics.mean(values) + half:.3g}]"


if __name__ == "__main__":
    main(measure, __doc__ or "")
