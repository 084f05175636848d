"""How well a denoiser takes noise off images that it was not trained on.

The mean over test images and draws of noise of the loss that its task minimises. A model that knows nothing of images
is at 1 in the tasks of fedsim.
"""

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
