"""Range of the pixels of normalised images."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.types import Observation


def pixel_box(observation: Observation) -> tuple[Tensor, Tensor]:
    """Return the normalised values of pixels 0 and 1, shape (C, 1, ...), with as many dimensions as an example."""
    spec = observation.spec
    shape = (-1, *(1 for _ in spec.shape[1:]))
    mean, std = torch.tensor(spec.mean).view(shape), torch.tensor(spec.std).view(shape)
    return (0.0 - mean) / std, (1.0 - mean) / std
