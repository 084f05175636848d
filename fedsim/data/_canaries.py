"""Canary images: random images inserted into a training set a known number of times.

A canary is a square of 4 x 4 random black and white fields over the whole image, one of 65,536 patterns.
Source: after Carlini et al. 2023, arXiv 2301.13188, and the canaries of arXiv 1802.08232.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Dataset, InputSpec, PlantedImage

_FIELDS = 4
_OTHERS = 127


def plant(data: Dataset, count: int, repetitions: tuple[int, ...], seed: int) -> Dataset:
    """Return the set with canaries after its training examples; their numbers of copies cycle through `repetitions`.

    Raises:
        FedsimError: there are more canaries than patterns left after the controls.
    """
    space = 2 ** (_FIELDS * _FIELDS)
    group_size = 1 + _OTHERS
    if count * group_size > space:
        raise FedsimError(
            f"data.canaries is {count}, expected at most {space // group_size}: each has {_OTHERS} controls."
        )
    source = seeding.generator(seed, "canaries")
    images = _patterns(torch.randperm(space, generator=source)[: count * group_size], data.spec)
    inputs, labels, canaries, first = [data.train.inputs], [data.train.labels], list[PlantedImage](), len(data.train)
    for number in range(count):
        image, decoys = images[number * group_size], images[number * group_size + 1 : (number + 1) * group_size]
        copies, label = repetitions[number % len(repetitions)], number % data.spec.classes
        canaries.append(PlantedImage(image, label, tuple(range(first, first + copies)), decoys))
        inputs.append(image.expand(copies, *image.shape))
        labels.append(torch.full((copies,), label))
        first += copies
    train = Batch(torch.cat(inputs), torch.cat(labels))
    return replace(data, train=train, planted_images=tuple(canaries))


def _patterns(numbers: Tensor, spec: InputSpec) -> Tensor:
    """Return the images (N, C, H, W) of numbers, whose bits are the fields."""
    bits = (numbers[:, None] >> torch.arange(_FIELDS * _FIELDS)) & 1
    fields = bits.view(-1, 1, _FIELDS, _FIELDS).float()
    pixels = F.interpolate(fields, spec.shape[1:], mode="nearest").expand(-1, spec.shape[0], -1, -1)
    mean, std = (torch.tensor(statistic).view(-1, 1, 1) for statistic in (spec.mean, spec.std))
    return (pixels - mean) / std
