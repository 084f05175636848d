"""Test loss of a denoiser.

The mean of the task's loss over test images and noise draws. In fedsim's tasks, a model without knowledge about images
has loss 1.
"""

from __future__ import annotations

from torch import Tensor

from fedsim.core import registry


@registry.metric(
    "test_denoising_loss",
    title="denoising loss",
    summary="denoising loss on test images; 1 for a denoiser that knows only the noise level",
    related="2206.00364",
    over="round",
    better="lower",
    digits=3,
    limits=(0.0, None),
)
def test_denoising_loss(losses: Tensor) -> float:
    """Return the mean loss over images."""
    return float(losses.mean())
