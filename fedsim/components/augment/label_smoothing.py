"""label-smoothing: mixes each label with the uniform distribution.

Idea: Targets below 1 keep the logits small.
Equation: y' = (1 - s) y + s / K
Assumes: labels given as classes or probabilities.
Leaks: as much as without it: the last layer's gradient is softmax minus target, and the true class still has by far the
    largest target.
Fails: as a defense of labels.
Source: Szegedy et al. 2015, arXiv 1512.00567, section 7.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch.nn.functional as F
from pydantic import Field

from fedsim.core.hooks import Augmentation, HookContext
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, MethodDescription

_PROBABILITIES = 2


class LabelSmoothingConfig(Config):
    """Settings of label smoothing."""

    smoothing: float = Field(
        default=0.1, ge=0, le=1, description="share s of the target, spread evenly over all classes"
    )


@final
@component(
    "label-smoothing",
    summary="moves labels towards the uniform distribution",
    tier="core",
    paper="1512.00567",
    fidelity="reproduction",
    paper_steps=(("labels mixed with the uniform distribution", "LabelSmoothing.augment"),),
)
class LabelSmoothing(Augmentation[LabelSmoothingConfig]):
    """Smooths labels; classes and probabilities both become smoothed probabilities."""

    def augment(self, batch: Batch, context: HookContext) -> Batch:
        """Return the batch with labels as probabilities (B, K)."""
        assert context.federation is not None
        labels, classes, share = batch.labels, context.federation.classes, self.config.smoothing
        target = labels if labels.dim() == _PROBABILITIES else F.one_hot(labels, classes)
        return replace(batch, labels=(1.0 - share) * target.to(batch.inputs) + share / classes)

    def public_description(self) -> MethodDescription:
        """Return the share s."""
        return MethodDescription("label-smoothing", settings={"smoothing": self.config.smoothing})
