"""A diffusion head with learned variances that is as good as training can make it."""

from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.types import InputSpec

ONE_NUMBER = InputSpec((1, 1, 1), 3, (0.0,), (1.0,))


class ExactHead(nn.Module):
    """What a head knows that was trained on numbers from N(0, variance): the noise, and ln of its squared error."""

    def __init__(self, share: Tensor, variance: float) -> None:
        super().__init__()
        self.share, self.variance = share, variance

    def forward(self, noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        share = self.share[level][:, None].to(noisy)
        whole = share * self.variance + 1 - share
        return torch.cat(
            ((1 - share).sqrt() * noisy / whole, (share * self.variance / whole).log().expand_as(noisy)), -1
        )


def learned(variance: float, levels: int = 6) -> Any:
    """A model of one number from N(0, variance) with learned variances."""
    method = registry.get("model", "patch-diffusion")
    settings = {"patch": 1, "width": 16, "blocks": 1, "hidden": 16, "levels": levels, "variance": "learned"}
    with seeding.isolate_randomness(0):
        own: Any = method.make(method.config.model_validate(settings), ONE_NUMBER)
    own.head = ExactHead(own.share, variance)
    return own
