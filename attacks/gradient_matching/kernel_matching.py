"""kernel-matching: match the gradient by one Gaussian kernel a tensor, each as wide as the tensor that was observed.

Idea: layers differ in the size of their gradients, and more so once a model is trained. A kernel of each layer's own
    width counts them alike, and what is far off does not drown what is near.
Equation: min over x of D(g(x), g*) + l_tv TV(x), with D = sum over tensors l of b^l (1 - exp(-|g_l - g*_l|^2 /
    (w |g*_l|^2))) / sum of b^l, the distance `gaussian-kernel`.
Assumes: honest-but-curious server, one gradient; labels granted or inferred.
Recovers: images, labels, and dropout masks of known rates; unknown rates are ignored.
Fails: starts from which every tensor is far off, where the kernels are flat; where other descents fail.
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
    summary="gradient matching by one Gaussian kernel a tensor",
    paper="2009.06228",
    fidelity="inspired",
    deviates="only the abstract was read; widths, weights and schedule are chosen here",
    aliases=("sapag",),
)
class KernelMatching(MaskSearchAttack[KernelMatchingConfig]):
    """Compares gradients by kernels."""
