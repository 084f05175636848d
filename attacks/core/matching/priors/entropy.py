"""entropy: relaxed dropout masks are binary: kept or dropped.

Idea: a client's masks are 0 or 1. A relaxed search may end between 0 and 1; this prior penalises such entries.
Equation: mean over all entries m of all masks of -m ln m - (1 - m) ln(1 - m), in [0, ln 2].
Fails: early in a search, where it fixes entries too soon, so its weight must be small; given or drawn masks, for which
    it is 0.
Source: Grandvalet, Bengio 2004, NIPS 17 (minimum entropy), there of class probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from attacks.core.matching.descent import Regulariser, VictimGroup
from attacks.core.matching.terms import Prior, PriorConfig
from fedsim.core.registry import prior
from fedsim.core.types import Masks, Observation

_DECIDED = 1e-6  # distance from 0 or 1 below which entries have no slope: it would be unbounded


@final
@prior("entropy", summary="dropout masks are decided", related="Grandvalet 2004, NIPS 17")
class Entropy(Prior[PriorConfig]):
    """Penalises masks between 0 and 1."""

    def left_out(self, observation: Observation) -> str | None:
        """Require dropout."""
        return None if observation.sites else "the model drops nothing out"

    def of(self, victims: VictimGroup) -> Regulariser:
        """Return the mean entropy of a row's masks."""
        return entropy


def entropy(inputs: Tensor, masks: Masks, _rows: Sequence[int]) -> Tensor:
    """Return the mean entropy in nats of masks (R, ...), shape (R,); 0 without masks."""
    if not masks:
        return inputs.new_zeros(len(inputs))
    kept = torch.cat([mask.flatten(1) for mask in masks], 1).clamp(_DECIDED, 1.0 - _DECIDED)
    return (torch.special.entr(kept) + torch.special.entr(1.0 - kept)).mean(1)
