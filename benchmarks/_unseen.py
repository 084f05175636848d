"""Clients that hold images which a denoiser of `fedsim bench model` never saw: test images of its data set."""

from __future__ import annotations

from dataclasses import replace

import torch

from fedsim.bench.denoisers import RECIPES, data_of
from fedsim.core.registry import for_scenarios
from fedsim.core.types import Dataset


@for_scenarios
def unseen(recipe: str, count: int) -> Dataset:
    """Return a data set whose training images are test images of a recipe, evenly spread over them.

    Args:
        recipe: name of the denoiser.
        count: images.
    """
    data = data_of(RECIPES[recipe])
    chosen = torch.arange(count) * (len(data.test) // count)
    return replace(data, train=data.test.select(chosen), users=None)
