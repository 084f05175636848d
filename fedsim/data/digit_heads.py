"""The digits of scikit-learn, 8x8 grey, with labels for three heads: the number, three traits, and the amount of ink.

Source: as data set digits. Traits: even, prime, above four. Ink: mean darkness of the upper and of the lower half.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Config, Dataset, InputSpec, LabelHead
from fedsim.data._digits import load_digits
from fedsim.data._images import ImageConfig

_TRAITS = ({0, 2, 4, 6, 8}, {2, 3, 5, 7}, {5, 6, 7, 8, 9})
_HEADS = (
    LabelHead("number", "class", (), 10),
    LabelHead("traits", "set", (3,), 3),
    LabelHead("ink", "numbers", (2,), 2),
)


class DigitHeadsConfig(Config):
    """Settings of digit-heads."""

    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of every digit for the test set")
    seed: int = Field(default=0, ge=0, description="seed of the examples' order; not the scenario's seed")


@dataset("digit-heads", summary="digits of 8x8 pixels with number, traits and ink, for three heads", extra="data")
def digit_heads(config: DigitHeadsConfig) -> Dataset:
    """Load the digits.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    data = load_digits(ImageConfig(seed=config.seed), config.test_fraction)
    train, test = (Batch(part.inputs, _labels(part, data.spec)) for part in (data.train, data.test))
    spec = replace(data.spec, classes=sum(head.outputs for head in _HEADS), heads=_HEADS)
    return replace(data, train=train, test=test, spec=spec, class_names=(), task="multi-head")


def _labels(batch: Batch, spec: InputSpec) -> Tensor:
    """Return number, traits and ink of every digit, float32, shape (N, 6)."""
    traits = torch.tensor([[float(number in having) for having in _TRAITS] for number in range(10)])
    ink = (batch.inputs * spec.std[0] + spec.mean[0]).unflatten(2, (2, -1)).mean((1, 3, 4))
    return torch.cat([batch.labels[:, None], traits[batch.labels], ink], 1)
