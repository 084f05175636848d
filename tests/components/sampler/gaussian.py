"""Gaussian data, of which the best denoiser and the whole curve are known."""

import torch
from torch import Tensor, nn

from fedsim.core.hooks import GenerationInputs
from fedsim.generation import sample
from tests.components.generating import make, sources

STD, LEAST, MOST = 0.5, 0.002, 80.0


class Gaussian(nn.Module):
    """D(x, s) = d^2 / (d^2 + s^2) x, whose curve is x = c sqrt(d^2 + s^2)."""

    calls = 0

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        self.calls += 1
        return STD**2 / (STD**2 + noise.view(-1, 1, 1, 1).square()) * x


def relative_error(name: str, steps: int) -> tuple[float, int]:
    """How far the end of the curve is missed, and how often the model was asked."""
    model = Gaussian()
    method = make(name, steps=steps, min_level=LEAST, max_level=MOST)
    (own,) = sample(method, model, GenerationInputs(((),)), (1, 4, 4), sources(1))
    begin = MOST * torch.randn((1, 4, 4), generator=sources(1)[0])
    exact = begin * STD / (STD**2 + MOST**2) ** 0.5
    assert own.x is not None
    assert model.calls == sum(own.trace.series()["evaluations"])
    return float(((own.x - exact) / exact).abs().max()), model.calls
