"""What is left of a gradient."""

import contextlib
from typing import Any

import torch

from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Defense
from fedsim.core.types import Tensors, Update
from tests.defenses.stepping import here, local_step, small


def applied(defense: Defense[Any], tensors: Tensors, seed: int = 0) -> Tensors:
    """What is left of a gradient after the step and the upload."""
    with contextlib.suppress(NotApplicable):
        defense.prepare(small(), torch.Generator().manual_seed(0))
    changed = defense.on_gradient(tensors, here(seed, local=local_step()))
    return defense.on_upload(Update("gradient", changed, {}, 1, 0.0), here(seed + 1)).tensors
