"""Two hundred honest models: fresh with eight initialisations, trained on digits, pruned and quantised."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.types import Batch, Dataset
from fedsim.scenario import Choice
from fedsim.scenario.data import load_dataset

SMALL = Choice.model_validate({"name": "digits"})
LARGE = Choice.model_validate({"name": "mnist5k", "size": 32})
MODELS: Mapping[str, tuple[dict[str, Any], Choice]] = {
    "mlp": ({"name": "mlp", "width": 128, "depth": 2, "bias": True, "activation": "relu"}, SMALL),
    "lenet": ({"name": "lenet"}, LARGE),
    "convnet": ({"name": "convnet", "width": 16}, LARGE),
    "vit-small": ({"name": "vit-small", "width": 64, "heads": 4, "blocks": 2, "hidden": 128}, LARGE),
    "resnet18": ({"name": "resnet18"}, LARGE),
}
_SEEDS = (1, 2)
_STAGES = {"mlp": (20, 200, 2000), "lenet": (20, 100, 500), "convnet": (20, 100, 300), "vit-small": (20, 100, 300)}
_SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_BITS = (8, 6, 5, 4, 3, 2)
_BATCH, _RATE = 64, 2e-3


def _orthogonal(weight: Tensor) -> Tensor:
    return nn.init.orthogonal_(weight)


_INITIALISATIONS: Mapping[str, Callable[[Tensor], Tensor] | None] = {
    "as the model says": None,
    "Xavier uniform": nn.init.xavier_uniform_,
    "Xavier normal": nn.init.xavier_normal_,
    "He uniform": nn.init.kaiming_uniform_,
    "He normal": nn.init.kaiming_normal_,
    "orthogonal": _orthogonal,
    "normal, 0.02": lambda weight: nn.init.normal_(weight, std=0.02),
    "truncated normal, 0.02": lambda weight: nn.init.trunc_normal_(weight, std=0.02),
}


class Honest(NamedTuple):
    """An honest model: what was done to it, its kind, what it reads, and itself."""

    group: str
    kind: str
    data: Dataset
    model: nn.Module


def honest_models() -> Iterator[Honest]:
    """Yield 80 fresh, 24 trained, 48 pruned and 48 quantised models."""
    yield from _fresh()
    for kind in _STAGES:
        for seed in _SEEDS:
            stages = [*_train_models(kind, seed)]
            yield from stages
            last = stages[-1]
            yield from (_change_weights(last, "pruned", share, _prune_weight) for share in _SHARES)
            yield from (_change_weights(last, "quantised", bits, _quantise_weight) for bits in _BITS)


def _fresh() -> Iterator[Honest]:
    for kind in MODELS:
        for name, initialise in _INITIALISATIONS.items():
            for seed in _SEEDS:
                made = _make_model(kind, seed)
                with seeding.isolate_randomness(seed):
                    for weight in made.model.parameters():
                        if initialise is not None and weight.dim() > 1:
                            initialise(weight)
                yield made._replace(group=f"fresh, {name}")


def _make_model(kind: str, seed: int) -> Honest:
    settings, data = MODELS[kind]
    dataset = load_dataset(data)
    choice = Choice.model_validate(settings)
    with seeding.isolate_randomness(seed):
        return Honest("fresh", kind, dataset, cast("nn.Module", choice.make("model", dataset.spec)).train())


def _train_models(kind: str, seed: int) -> Iterator[Honest]:
    """Yield a model after so many steps of Adam on digits."""
    made = _make_model(kind, seed)
    generator, train = torch.Generator().manual_seed(seed), made.data.train
    descent = torch.optim.Adam(made.model.parameters(), lr=_RATE)
    with seeding.isolate_randomness(seed):
        for before, after in pairwise((0, *_STAGES[kind])):
            for _ in range(after - before):
                batch = train.select(torch.randint(len(train.inputs), (_BATCH,), generator=generator))
                descent.zero_grad()
                cross_entropy(made.model(batch.inputs), batch.labels).backward()
                descent.step()
            yield made._replace(group=f"trained, {after} steps", model=copy.deepcopy(made.model))


def _change_weights(honest: Honest, what: str, strength: float, change: Callable[[Tensor, float], Tensor]) -> Honest:
    model = copy.deepcopy(honest.model)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(change(weight, strength))
    return honest._replace(group=f"{what}, {strength:g}", model=model)


def _prune_weight(weight: Tensor, share: float) -> Tensor:
    """Return the weight without this share of its entries, the smallest."""
    return torch.where(weight.abs() > weight.abs().flatten().quantile(share), weight, 0.0)


def _quantise_weight(weight: Tensor, bits: float) -> Tensor:
    """Return the weight rounded to symmetric levels of so many bits."""
    step = weight.abs().max().clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    return (weight / step).round() * step


def accuracy(honest: Honest) -> float:
    """Return the share of the test set that a model classifies rightly."""
    model, test = copy.deepcopy(honest.model).eval(), honest.data.test
    with torch.no_grad():
        return float((model(test.inputs).argmax(1) == test.labels).double().mean())


def batch_of(data: Dataset, seed: int, examples: int) -> Batch:
    """Return some training examples, drawn at random."""
    chosen = torch.randint(len(data.train.inputs), (examples,), generator=torch.Generator().manual_seed(seed))
    return data.train.select(chosen)
