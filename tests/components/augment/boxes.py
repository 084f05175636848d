"""CutMix with its settings, and random numbers."""

from typing import Any

import torch

from fedsim.components.augment.cutmix import CutMix, CutMixConfig

SHAPES = [(28, 28), (32, 48), (7, 5)]


def cutmix(**settings: Any) -> CutMix:
    return CutMix(CutMixConfig(**{"probability": 1.0, **settings}))


def areas(boxes: torch.Tensor) -> torch.Tensor:
    """Return the number of pixels of each box (N, 4), shape (N,)."""
    top, bottom, left, right = boxes.unbind(1)
    return (bottom - top) * (right - left)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
