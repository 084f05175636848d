"""Label smoothing: the target becomes (1 - s) y + s / K.

Paper: Szegedy et al. 2015, arXiv 1512.00567, section 7. What it may leak: nothing more, nothing less. The last layer's
gradient is softmax minus target, and the true class still has by far the smallest target entry to subtract from.
"""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from pydantic import Field

from fedsim.core.hooks import Augmentation, Here
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, PublicKnowledge

_PROBABILITIES = 2


class LabelSmoothingConfig(Config):
    """Settings of label smoothing."""

    smoothing: float = Field(default=0.1, ge=0, le=1, description="share s of the target that all classes divide")


@final
@component("label-smoothing", summary="targets a little nearer to uniform", paper="1512.00567")
class LabelSmoothing(Augmentation[LabelSmoothingConfig]):
    """Turns labels into probabilities; those that are probabilities already are smoothed too."""

    def augment(self, batch: Batch, here: Here) -> Batch:
        """Return the batch with labels as probabilities (B, K)."""
        assert here.rules is not None
        labels, classes, share = batch.labels, here.rules.classes, self.config.smoothing
        target = labels if labels.dim() == _PROBABILITIES else F.one_hot(labels, classes)
        return Batch(batch.inputs, (1.0 - share) * target.to(batch.inputs) + share / classes)

    def public_view(self) -> PublicKnowledge:
        """Return the share."""
        return PublicKnowledge("label-smoothing", {"smoothing": self.config.smoothing})
