"""Two traces of different lengths and paces."""

import torch

from fedsim.core.types import Event, Trace

SHORT = Trace((2, 1), (Event(accepted=2, layers=5), Event(accepted=1, layers=3)))
LONG = Trace((1, 3, 0, 1), (Event(accepted=1), Event(accepted=3), Event(accepted=0), Event(accepted=1)))


def source(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)
