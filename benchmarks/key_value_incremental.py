"""Class-incremental learning: does a key-value bottleneck forget less than a linear probe of the same encoder?

MNIST, five splits of two classes in an order of the seed, each trained and then never seen again; the same number of
updates on all classes at once is the control (i.i.d.). Encoder: one random layer of 256 units with GELU, frozen. A
quarter of the training images, without labels, sets the keys; the others are the stream. SGD 0.3, batches of 256, label
smoothing 0.1, gradient norm at most 1; C = 32, J = 256, d_k = 8. Forgetting is i.i.d. minus incremental accuracy over
all ten classes. Without ``--full`` 5 seeds of 200 epochs a split, about two minutes on one core. A row's value is the
mean over seeds; its interval is that of Student's t.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import NamedTuple  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._rows import Row, as_line, half_width, main, measured  # noqa: E402
from fedsim.components.bottleneck.key_value_bottleneck import (  # noqa: E402
    KeyValueBottleneck,
    KeyValueBottleneckConfig,
    bottleneck_of,
)
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.types import Batch, Dataset  # noqa: E402

CLASSES, SPLIT, BATCH, RATE, SMOOTHING = 10, 2, 256, 0.3, 0.1
EPOCHS = 200


class Accuracies(NamedTuple):
    """Shares of right answers over all classes of the test set, after the last split and after i.i.d. training."""

    incremental: float
    iid: float

    @property
    def forgetting(self) -> float:
        """What the order of the classes cost."""
        return self.iid - self.incremental


class Task(NamedTuple):
    """Features of one encoder: unlabelled ones for the keys, the stream, the test set; and the encoder's model."""

    public: Tensor
    stream: Batch
    test: Batch
    dataset: Dataset
    seed: int


def task(seed: int) -> Task:
    """Return the images of a seed."""
    method = registry.get("dataset", "mnist5k")
    dataset: Dataset = method.make(method.config())
    order = torch.randperm(len(dataset.train), generator=seeding.generator(seed, "incremental"))
    quarter = len(order) // 4
    stream = order[quarter:]
    return Task(
        dataset.train.inputs[order[:quarter]],
        Batch(dataset.train.inputs[stream], dataset.train.labels[stream]),
        dataset.test,
        dataset,
        seed,
    )


def bottleneck(problem: Task, epochs: int) -> Accuracies:
    """Return what the key-value bottleneck reaches."""
    results: list[float] = []
    for splits in _orders(problem.seed):
        model = _model(problem)
        component = KeyValueBottleneck(KeyValueBottleneckConfig())
        prepared = component.prepare(model, seeding.generator(problem.seed, "prepare")).train()
        component.initialise(prepared, problem.public, seeding.generator(problem.seed, "initialise"))
        network = bottleneck_of(prepared)
        head = nn.Sequential(network.table, network.decoder)
        _train(head, network.read(problem.stream.inputs), problem.stream.labels, splits, epochs, problem.seed)
        results.append(_right(prepared.eval(), problem.test))
    return Accuracies(*results)


def linear_probe(problem: Task, epochs: int) -> Accuracies:
    """Return what a linear layer on the same features reaches."""
    results: list[float] = []
    for splits in _orders(problem.seed):
        encoder = _model(problem)
        encoder[-1] = nn.Identity()
        with torch.no_grad():
            features = encoder.eval()(problem.stream.inputs)
        with seeding.isolate_randomness(problem.seed):
            head = nn.Linear(features.shape[1], CLASSES)
        _train(head, features, problem.stream.labels, splits, epochs, problem.seed)
        results.append(_right(nn.Sequential(encoder, head).eval(), problem.test))
    return Accuracies(*results)


LEARNERS = {"linear probe": linear_probe, "key-value bottleneck": bottleneck}


def measure(full: bool) -> list[Row]:
    """Return accuracies and forgetting of both learners."""
    epochs, seeds = (2000, range(10)) if full else (EPOCHS, range(5))
    setting = f"MNIST, 5 splits of 2 classes, {epochs} epochs"
    rows: list[Row] = []
    for name, learner in LEARNERS.items():
        results = [learner(task(seed), epochs) for seed in seeds]
        for what, values in (
            ("accuracy, incremental", [result.incremental for result in results]),
            ("accuracy, i.i.d.", [result.iid for result in results]),
            ("forgetting", [result.forgetting for result in results]),
        ):
            row = measured(f"{name}: {what} {interval(values)}", setting, values, "", "", statistics.mean(values))
            print(as_line(row), file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def interval(values: Sequence[float]) -> str:
    """Return the 95% interval of the mean, as text."""
    half = half_width(values)
    return f"{statistics.mean(values):.3f} +- {half:.3f}"


def _orders(seed: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the classes of each split, and the one split that holds them all."""
    order = torch.randperm(CLASSES, generator=seeding.generator(seed, "order of classes"))
    return order.split(SPLIT), (order,)


def _model(problem: Task) -> nn.Sequential:
    method = registry.get("model", "mlp")
    with seeding.isolate_randomness(problem.seed):
        config = method.config.model_validate({"width": 256, "depth": 1, "dropout": 0.0})
        model = method.make(config, problem.dataset.spec)
    assert isinstance(model, nn.Sequential)
    return model


def _train(head: nn.Module, inputs: Tensor, labels: Tensor, splits: Sequence[Tensor], epochs: int, seed: int) -> None:
    """Train on one split after the other, with as many updates in all as five splits of so many epochs take."""
    parameters = [p for p in head.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, RATE)
    generator = seeding.generator(seed, "batches")
    steps = epochs * len(labels) // BATCH // len(splits)
    for classes in splits:
        members = torch.isin(labels, classes).nonzero().flatten()
        for _ in range(steps):
            chosen = members[torch.randint(len(members), (BATCH,), generator=generator)]
            optimizer.zero_grad()
            F.cross_entropy(head(inputs[chosen]), labels[chosen], label_smoothing=SMOOTHING).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()


@torch.no_grad()
def _right(model: nn.Module, test: Batch) -> float:
    return float((model(test.inputs).argmax(1) == test.labels).double().mean())


if __name__ == "__main__":
    main(measure, __doc__ or "")
