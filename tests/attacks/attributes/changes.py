"""Changes of a linear model in closed form."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedsim.core.types import Tensors
from fedsim.questions.attributes.hooks import AttributeAttack

EXAMPLES, WIDTH = 120, 6


def linear_changes(seed: int, label: Callable[[Tensor], Tensor]) -> tuple[list[Tensors], Tensor]:
    """Return gradients of (w x - y)^2 / 2 at w = 0, which are -y x, and whether x_0 > 0; y = label(x)."""
    inputs = torch.randn(EXAMPLES, WIDTH, generator=torch.Generator().manual_seed(seed))
    changes: list[Tensors] = [{"weight": -y * x[None]} for x, y in zip(inputs, label(inputs), strict=True)]
    return changes, (inputs[:, 0] > 0).long()


def share(attack: AttributeAttack, label: Callable[[Tensor], Tensor]) -> float:
    """Return how often an attack that knows one half of the changes reads the attribute of the other half."""
    described = []
    for seed in (0, 1):
        changes, values = linear_changes(seed, label)
        kept = [attack.describe(change, torch.Generator().manual_seed(7)) for change in changes]
        described.append((torch.stack(kept), values))
    (known, labels), (asked, truth) = described
    found = attack(known, labels, asked, torch.Generator().manual_seed(0)).argmax(1)
    return float((found == truth).double().mean())


def always(inputs: Tensor) -> Tensor:
    """Labels of 1: the change is -x, and its direction is that of the example."""
    return torch.ones(len(inputs))


def by_coin(inputs: Tensor) -> Tensor:
    """Labels of 1 and -1 that say nothing of the example, and turn the sign of its change."""
    return 2.0 * (torch.arange(len(inputs)) % 2) - 1
