"""How well a denoiser takes noise off images that it was not trained on."""

from __future__ import annotations

from torch import Tensor

from fedsim.core import registry


@registry.metric(
    "test_denoising_loss",
    title="denoising loss",
    summary="what a denoiser minimises, on test images; where it knows nothing but the noise level, 1",
    related="2206.00364",
    over="round",
    better="lower",
    digits=3,
    limits=(0.0, None),
)
def test_denoising_loss(losses: Tensor) -> float:
    """Return the mean of the loss of every image."""
    return float(losses.mean())
