"""kernel-matching: match the gradient by a Gaussian kernel per tensor, with a width relative to the observed tensor.

Idea: layers differ in the size of their gradients, and more so once a model is trained. A separate kernel width per
    layer gives them equal weight, and large differences do not drown small ones.
Equation: min over x of D(g(x), g*) + l_tv TV(x), with D = sum over tensors l of b^l (1 - exp(-|g_l - g*_l|^2 /
    (w |g*_l|^2))) / sum of b^l, the distance `gaussian-kernel`.
Assumes: honest-but-curious server, a single gradient; labels granted or inferred.
Recovers: images, labels, and dropout masks of known rates; unknown rates are ignored.
Fails: starts at which every tensor differs strongly, where the kernels are flat; where other descents fail.
Source: inspired by SAPAG, Wang et al. 2020, arXiv 2009.06228, of which the abstract was read.
"""

from __future__ import annotations

from typing import final

from attacks.core.matching.attack import MaskSearchAttack, MaskSearchConfig
from attacks.core.matching.terms import DistanceChoice, distance_setting
from fedsim.core.registry import attack


class KernelMatchingConfig(MaskSearchConfig):
    """Settings of matching by kernels."""

    distance: DistanceChoice = distance_setting("gaussian-kernel")


@final
@attack(
    "kernel-matching",
    summary="gradient matching with a Gaussian kernel per tensor",
    tier="baseline",
    paper="2009.06228",
    fidelity="inspired",
    deviates="only the abstract was read; widths, weights and schedule are chosen here",
    aliases=("sapag",),
)
class KernelMatching(MaskSearchAttack[KernelMatchingConfig]):
    """Compares gradients by kernels."""
