"""A made-up table of categories and numbers, and gradients of its rows."""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.nets.masks import record_masks
from fedsim.core.types import InputSpec, Observation
from tests.attacks.solving import toy

SIZES = (7, 5, 6, 4, 6, 5, 3, 8)  # values of each category; three numbers stand between the fourth and the fifth
NUMBERS = 3
COLUMNS = sum(SIZES) + NUMBERS


class Census(NamedTuple):
    """People, each column from 0 to 1, shape (N, COLUMNS), and what is public of them."""

    rows: Tensor
    mean: Tensor
    std: Tensor

    @property
    def spec(self) -> InputSpec:
        return InputSpec((COLUMNS,), 2, tuple(self.mean.tolist()), tuple(self.std.tolist()))


def census(seed: int = 0, people: int = 1000) -> Census:
    """Draw people whose categories have shares 1, 1/2, 1/3, ... of the most frequent value."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size in SIZES:
        values = (1.0 / torch.arange(1, size + 1)).multinomial(people, replacement=True, generator=generator)
        parts.append(F.one_hot(values, size).double())
    numbers = torch.rand((people, NUMBERS), generator=generator, dtype=torch.float64)
    rows = torch.cat([*parts[:4], numbers, *parts[4:]], 1)
    return Census(rows, rows.mean(0), rows.std(0, correction=0))


def network(width: int, *, rate: float = 0.0, activation: type[nn.Module] = nn.GELU, columns: int = COLUMNS):
    """Return one hidden layer with two classes behind it."""
    dropped = [nn.Dropout(rate)] if rate else []
    with seeding.isolate_randomness(2):
        return nn.Sequential(nn.Linear(columns, width), activation(), *dropped, nn.Linear(width, 2))


def gradient_of(model: nn.Module, people: Census, chosen: Tensor, seed: int = 0) -> tuple[Observation, Tensor, Tensor]:
    """Return the gradient of some rows, of which no labels are known, then these rows as the model reads them, and
    their labels."""
    observation, _ = toy(model, (COLUMNS,), len(chosen), classes=2, seed=seed)
    inputs = (people.rows[chosen] - people.mean) / people.std
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (len(chosen),), generator=generator)
    with record_masks(model, generator) as recording:
        loss = F.cross_entropy(model(inputs), labels)
    trained = dict(model.named_parameters())
    tensors = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
    update = replace(observation.update, tensors=tensors, loss=float(loss.detach()))
    seen = replace(observation, update=update, sites=tuple(recording.sites), spec=people.spec, labels=None)
    return seen, inputs, labels
