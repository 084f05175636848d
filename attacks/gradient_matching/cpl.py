"""cpl: match the gradient by L-BFGS from a patterned start, with a label term (Client Privacy Leakage, CPL).

Idea: a small random square, tiled over the image, is a better start than noise. An image that the model classifies
    as its label is more likely the client's.
Equation: min over x of |g(x, y) - g*|^2 + a |F(x) - onehot(y)|^2, with F the class probabilities, a = `label_weight`.
Assumes: honest-but-curious server, a single gradient. Granted labels are used, others inferred. Dropout masks of known
    rates are further unknowns, as logits; with unknown rates the search ignores dropout.
Recovers: images, labels, and dropout masks of known rates.
Fails: where dlg fails: ReLU, large batches. The label term is not zero at the true image unless the model is certain
    of its label.
Source: Wei et al. 2020, arXiv 2004.10397.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, final

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attacks.core.matching.descent import Search, VictimGroup
from attacks.core.matching.starts import Start
from attacks.gradient_matching._lbfgs import LbfgsAttack, LbfgsConfig
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import Masks, change_default


class CplConfig(LbfgsConfig):
    """Settings of CPL."""

    start: Start = change_default(LbfgsConfig, start="patterned")
    label_weight: float = Field(default=0.01, ge=0, description="weight a of the squared error of the probabilities")


@final
@attack(
    "cpl",
    summary="L-BFGS from a patterned start with a label term (CPL)",
    tier="baseline",
    paper="2004.10397",
    fidelity="variant",
    deviates="dropout masks are unknowns too; the label's weight is chosen here",
    paper_steps=(
        ("patterned start", "attacks.core.matching.starts.first_inputs"),
        ("label term of the objective", "Cpl.plan"),
        ("search by L-BFGS", "attacks.gradient_matching._lbfgs.LbfgsAttack.run_search"),
    ),
)
class Cpl(LbfgsAttack[CplConfig]):
    """Searches images with outputs that also fit the label."""

    effort: ClassVar[Effort] = "descent"

    def plan(self, victims: VictimGroup) -> Search:
        """Return the search with the prior a |F(x) - onehot(y)|^2 under the masks of the search."""
        search, client = super().plan(victims), self.simulated_client(victims.observations[0])
        weight, (labels,) = self.config.label_weight, victims.labels

        def prior(inputs: Tensor, masks: Masks, rows: Sequence[int]) -> Tensor:
            odds = client.outputs(inputs[0], tuple(mask[0] for mask in masks), {}).softmax(1)
            error = (odds - F.one_hot(labels.to(odds.device), odds.shape[1]).to(odds)).square().sum()
            return search.prior(inputs, masks, rows) + weight * error

        return replace(search, prior=prior) if weight else search
