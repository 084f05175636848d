"""What Nested Dropout and Co-teaching are for: test accuracy after training on labels of which 40 % are wrong.

MNIST-5k: 3,000 training images with symmetric noise, 1,000 clean ones for validation, 1,000 for the test; a small
convolutional network with D = 128 features, 15 epochs of SGD with momentum 0.9 and a constant step. Plain (CE), dropout
0.3, Nested Dropout with eta = 10, the mean of two such networks, and these two after 5 more epochs of Co-teaching with
a forget rate of 0.4 and a tenth of the step. As in the paper (arXiv 2206.13140) the epoch and the k that do best on the
validation images count; accuracy after the last epoch stands beside it. Three seeds.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import sys  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._prefixes import best_prefix, features_and_head, prefix_accuracies, prefix_logits  # noqa: E402
from benchmarks._rows import Row, as_line, main, measured  # noqa: E402
from fedsim.components.loss.co_teaching import CoTeaching, NetworkPair, halves, small_losses  # noqa: E402
from fedsim.core.types import Memory, Tensors  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import World, build  # noqa: E402

NOISE, FORGET, BATCH, STEP = 0.4, 0.4, 60, 0.05
EPOCHS, FINE = 15, 5
NESTED = ({"name": "nested-dropout", "eta": 10.0},)
_ANOTHER = 1000


class Trained(NamedTuple):
    """A training: the best epoch and k on validation images, and the last epoch at its own best k."""

    weights: Tensors
    kept: int
    best: float
    last: float


def world_of(seed: int, components: Sequence[dict[str, Any]], step: float, *, dropout: float, noise: float) -> World:
    """Return one client with all training images."""
    raw: dict[str, Any] = {
        "title": "noisy labels",
        "seed": seed,
        "data": {"name": "mnist5k", "test_fraction": 0.4},
        "model": {"name": "benchmarks._family_models:small_cnn", "dropout": dropout},
        "components": list(components),
        "federation": {
            "algorithm": "fedavg",
            "clients": 1,
            "batch_size": BATCH,
            "local_epochs": 1,
            "optimizer": {"name": "sgd", "learning_rate": step, "momentum": 0.9},
            "keep_optimizer_state": True,
        },
        "label_noise": {"rate": noise},
    }
    world = build(parse(raw, "benchmark"))
    world.check()
    return world


def trained(world: World, weights: Tensors, epochs: int, *, cuts: bool, first: int = 1) -> Trained:
    """Train so many epochs; after each the best k is chosen on validation images if the network is cut.

    Rounds are counted from `first`: with another one, batches and cuts are others.
    """
    memory: Memory = {}
    best = Trained(weights, 0, 0.0, 0.0)
    highest, tested = -1.0, 0.0
    for epoch in range(first, first + epochs):
        update, _ = local_training(world, weights, epoch, 0, memory)
        weights = {n: t - update.tensors[n] if n in update.tensors else t for n, t in weights.items()}
        kept, validated, tested = judged(world.models.holding(weights), world, cuts=cuts)
        if validated > highest:
            highest, best = validated, Trained(weights, kept, tested, tested)
    return best._replace(last=tested)


def judged(model: nn.Module, world: World, *, cuts: bool) -> tuple[int, float, float]:
    """Return k, its accuracy on validation images, and that on test images."""
    test = world.data.dataset.test
    networks = [model.first, model.second] if isinstance(model, NetworkPair) else [model]
    validated = prefix_accuracies(_logits(networks, test.inputs[::2]), test.labels[::2])
    tested = prefix_accuracies(_logits(networks, test.inputs[1::2]), test.labels[1::2])
    kept = best_prefix(validated) if cuts else len(validated)
    return kept, float(validated[kept - 1]), float(tested[kept - 1])


@torch.no_grad()
def _logits(networks: Sequence[nn.Module], inputs: Tensor) -> Iterator[Tensor]:
    """Yield the mean of the networks' logits at every k."""
    for cut in zip(*(prefix_logits(f, head.weight) for f, head in _heads(networks, inputs)), strict=True):
        yield torch.stack(cut).mean(0)


def _heads(networks: Sequence[nn.Module], inputs: Tensor) -> Iterator[tuple[Tensor, nn.Linear]]:
    for network in networks:
        yield features_and_head(network, inputs)


def _paired(first: Tensors, second: Tensors) -> Tensors:
    named = (("first", first), ("second", second))
    return {f"{name}.{key}": tensor.clone() for name, tensors in named for key, tensor in tensors.items()}


def purity(world: World, clean: Tensor, weights: Tensors) -> tuple[float, float]:
    """Return the share of right labels among the examples that are kept in one pass, and the share that is kept."""
    model, component = (
        world.models.holding(weights),
        next(c for c in world.stack.components if isinstance(c, CoTeaching)),
    )
    assert isinstance(model, NetworkPair)
    model.eval()
    right = kept = seen = 0
    for chosen in world.data.numbers_of(1, 0):
        middle = halves(len(chosen))[0]
        for network, part in ((model.first, chosen[:middle]), (model.second, chosen[middle:])):
            labels = world.data.dataset.train.labels[part]
            with torch.no_grad():
                logits = network(world.data.dataset.train.inputs[part])
            small = small_losses(logits, labels, component.rate(1))
            right += int((labels[small] == clean[part][small]).sum())
            kept, seen = kept + len(small), seen + len(part)
    return right / kept, kept / seen


def seeded(seed: int, epochs: int = EPOCHS, fine: int = FINE) -> dict[str, float]:
    """Return all figures of one seed, by name."""
    figures: dict[str, float] = {}
    for name, dropout in (("CE", 0.0), ("dropout 0.3", 0.3)):
        world = world_of(seed, (), STEP, dropout=dropout, noise=NOISE)
        one = trained(world, world.models.first_weights, epochs, cuts=False)
        figures |= {f"{name}, best epoch": one.best, f"{name}, last epoch": one.last}
    worlds = [world_of(number, NESTED, STEP, dropout=0.0, noise=NOISE) for number in (seed, seed + _ANOTHER)]
    world = worlds[0]
    one = trained(world, world.models.first_weights, epochs, cuts=True)
    two = trained(world, worlds[1].models.first_weights, epochs, cuts=True, first=_ANOTHER)  # the same wrong labels
    figures |= {"Nested, best epoch": one.best, "Nested, last epoch": one.last, "k of Nested": one.kept}
    both = _paired(one.weights, two.weights)
    components = [{**NESTED[0], "kept": one.kept}, {"name": "co-teaching", "forget_rate": FORGET}]
    together = world_of(seed, components, STEP / 10.0, dropout=0.0, noise=NOISE)
    kept, _, tested = judged(together.models.holding(both), together, cuts=True)
    figures |= {"mean of two Nested": tested, "k of the mean": kept}
    clean = world_of(seed, (), STEP, dropout=0.0, noise=0.0).data.dataset.train.labels
    figures["share of right labels among those kept, before"] = purity(together, clean, both)[0]
    last = trained(together, both, fine, cuts=True)
    figures |= {"Nested + Co-teaching, best epoch": last.best, "Nested + Co-teaching, last epoch": last.last}
    figures["share of right labels among those kept, after"], figures["share kept"] = purity(
        together, clean, last.weights
    )
    return figures


def measure(full: bool) -> Sequence[Row]:
    """Return the rows over three seeds, or over ten."""
    rows: list[Row] = []
    runs: list[dict[str, float]] = []
    for seed in range(10 if full else 3):
        runs.append(seeded(seed))
        print(runs[-1], file=sys.stderr, flush=True)
    setting = f"MNIST-5k, {NOISE:.0%} symmetric noise, D = 128"
    for name in runs[0]:
        values = [run[name] for run in runs]
        if name.startswith("k of"):
            rows.append(measured(name, setting, values, "channels", ""))
        elif "labels" in name:
            rows.append(measured(name, setting, [100.0 * v for v in values], "%", f"> {100.0 * (1.0 - NOISE):g}"))
        else:
            what = name if name == "share kept" else f"test accuracy: {name}"
            rows.append(measured(what, setting, [100.0 * v for v in values], "%", ""))
    gains = [100.0 * (run["Nested + Co-teaching, best epoch"] - run["CE, best epoch"]) for run in runs]
    rows.append(measured("gain of Nested + Co-teaching over CE, best epochs", setting, gains, "points", "> 0"))
    for row in rows:
        print(as_line(row), file=sys.stderr)
    return rows


if __name__ == "__main__":
    main(measure, __doc__ or "")
