"""Gradients that a defense rounds."""

from typing import Any

import torch

from fedsim.core.types import Tensors
from tests.defenses.stepping import here, make

VALUES = torch.tensor([-1.3, -0.2, 0.0, 0.05, 0.4, 2.0])


def sent(name: str, tensors: Tensors, seed: int = 0, **settings: Any) -> Tensors:
    return make(name, **settings).on_gradient(tensors, here(seed))
