"""substitute: train a bottom of its own on public examples until its vectors look like the party's, and invert that.

Idea: two bottoms of the same kind whose outputs have the same law have learned the same map, nearly.
Equation: min over s of w MMD(s(public), h) + GAN(s(public), h); then min over d of |d(s(public)) - public|^2; d(h).
Assumes: public examples of the same kind, and how the bottom is built; honest training.
Recovers: inputs about as well as public examples are like them, and better on small images.
Fails: a bottom whose outputs say little; masks that the decoder was not trained with.
Source: Xu et al. 2024, arXiv 2405.04115 (FORA), its idea; sizes, kernels and losses are chosen here.
"""

from __future__ import annotations

import copy
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attacks.cut_features._decoding import critic, decoder, descend, mismatch
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks.cut import CutFeatureAttack
from fedsim.core.registry import evidence_attack
from fedsim.core.types import Config
from fedsim.core.types.cut import CutKnowledge, CutView, Evidence


class SubstituteConfig(Config):
    """Settings of substitute."""

    epochs: int = Field(default=60, ge=1, description="passes over public examples for the substitute, and again for d")
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight: float = Field(default=10.0, ge=0, description="w, of the discrepancy of the two laws")


@final
@evidence_attack(
    "substitute",
    summary="inputs by a substitute bottom that is aligned with what is sent",
    paper="2405.04115",
    fidelity="variant",
    deviates="small networks, and one aligned epoch of messages",
    aliases=("fora",),
)
class Substitute(CutFeatureAttack[SubstituteConfig]):
    """Aligns, then inverts."""

    reads: ClassVar[Evidence] = "embeddings"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"architecture", "public-data"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return the inputs, shape (N, *shape)."""
        if view.public is None or view.architecture is None:
            raise NotApplicable("it needs public examples, and how the bottom is built")
        sent = view.sent(torch.cat([step.rows for step in view.steps]).sort().values)
        with seeding.isolate_randomness(generator.initial_seed()):
            judge, inverse = critic(view.width, 1), decoder(view.width, view.shape)
            substitute = copy.deepcopy(view.architecture).train()
            self._align(substitute, judge, view.public, sent, generator)
            self._invert(inverse, substitute, view.public, generator)
        return inverse(view.sent(view.rows))

    def _align(
        self, substitute: nn.Module, judge: nn.Module, public: Tensor, sent: Tensor, generator: torch.Generator
    ) -> None:
        learner, teller = (torch.optim.Adam(one.parameters(), self.config.learning_rate) for one in (substitute, judge))
        for rows in self._batches(len(public), generator):
            real = sent[torch.randint(len(sent), (len(rows),), generator=generator)]
            made = substitute(public[rows])
            descend(teller, F.softplus(-judge(real)).mean() + F.softplus(judge(made.detach())).mean())
            descend(learner, F.softplus(-judge(made)).mean() + self.config.weight * mismatch(made, real))

    def _invert(self, inverse: nn.Module, substitute: nn.Module, public: Tensor, generator: torch.Generator) -> None:
        optimizer = torch.optim.Adam(inverse.parameters(), self.config.learning_rate)
        for rows in self._batches(len(public), generator):
            with torch.no_grad():
                made = substitute(public[rows])
            descend(optimizer, F.mse_loss(inverse(made), public[rows]))

    def _batches(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Return the numbers of public examples of every step."""
        passes = (torch.randperm(count, generator=generator) for _ in range(self.config.epochs))
        return [rows for order in passes for rows in order.split(self.config.batch_size)]
