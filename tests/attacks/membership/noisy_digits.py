"""Few digits, half of them with a label at random: a model that fits them has memorised them."""

import torch

from fedsim.core import registry
from fedsim.core.types import Batch, Dataset

TRAIN, TEST = 160, 320


def load() -> Dataset:
    """Return 160 digits for training and 320 for testing, in an order of their own."""
    method = registry.get("dataset", "digits")
    digits = method.make(method.config())
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(digits.train), generator=generator)
    labels = torch.where(
        torch.rand(len(order), generator=generator) < 0.5,
        torch.randint(digits.spec.classes, (len(order),), generator=generator),
        digits.train.labels,
    )

    def taken(chosen: torch.Tensor) -> Batch:
        return Batch(digits.train.inputs[chosen], labels[chosen])

    return Dataset(taken(order[:TRAIN]), taken(order[TRAIN : TRAIN + TEST]), digits.spec, digits.class_names)
