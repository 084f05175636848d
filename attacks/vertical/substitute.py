"""substitute: train a substitute bottom on public examples to match the party's activations, and invert it.

Idea: a bottom whose activations have the party's distribution, and predict classes through the same top, has learned
    the same map.
Equation: min over s of w MMD(s(public), h) + GAN(s(public), h) + v CE(top(s(public)), labels), vectors standardised by
    h; then min over d of |d(s(public)) - public|^2; the answer is d(h).
Assumes: labelled public examples of the same kind, the bottom's architecture, the attacker's own top; honest training.
Recovers: small images about as well as the nearest public image, once the model is trained.
Fails: with v = 0 it finds another map with the same distribution, unless both bottoms started alike; an untrained top;
    masks.
Source: Xu et al. 2024, arXiv 2405.04115 (FORA); the loss through the top after Zhu et al. 2025, arXiv 2310.10483.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attacks.core.training import NetworkTraining
from attacks.vertical._decoding import critic, decoder, mismatch
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutFeatureAttack
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence

_LEAST_SPREAD = 1e-3  # floor of a coordinate's standard deviation: a constant coordinate has no information


class SubstituteConfig(Config):
    """Settings of substitute."""

    epochs: int = Field(default=80, ge=1, description="passes over public examples for the substitute, and again for d")
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight: float = Field(default=10.0, ge=0, description="w, of the discrepancy of the two laws")
    labels: float = Field(default=1.0, ge=0, description="v, of public labels seen through the attacker's own top")


@final
@attack(
    "substitute",
    summary="inputs by a substitute bottom that is aligned with the sent activations",
    tier="core",
    paper="2405.04115",
    fidelity="variant",
    deviates="the top predicts public labels too; small networks",
    paper_steps=(
        ("substitute bottom aligned with the party's features", "Substitute._align"),
        ("decoder trained on the substitute", "Substitute._invert"),
    ),
    aliases=("fora",),
)
class Substitute(CutFeatureAttack[SubstituteConfig]):
    """Aligns a substitute bottom, then inverts it."""

    reads: ClassVar[Evidence] = "embeddings"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"architecture", "public-data"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return the inputs, shape (N, *shape)."""
        if view.public is None or view.architecture is None:
            raise NotApplicable("it needs public examples, and how the bottom is built")
        sent = view.sent_activations(torch.cat([step.rows for step in view.steps]).sort().values)
        scale = _Scale(sent.mean(0), sent.std(0).clamp_min(_LEAST_SPREAD))
        with seeding.isolate_randomness(generator.initial_seed()):
            judge, inverse = critic(view.width, 1), decoder(view.width, view.shape)
        substitute = copy.deepcopy(view.architecture)
        self._align(substitute, judge, scale, sent, view, generator)
        self._invert(inverse, substitute, scale, view.public, generator)
        return inverse(scale(view.sent_activations(view.rows)))

    def _align(
        self,
        substitute: nn.Module,
        judge: nn.Module,
        scale: _Scale,
        sent: Tensor,
        view: CutView,
        generator: torch.Generator,
    ) -> None:
        assert view.public is not None
        learner, teller = (NetworkTraining([model], self.config.learning_rate) for model in (substitute, judge))
        for rows in self._batches(len(view.public), generator):
            real = scale(sent[torch.randint(len(sent), (len(rows),), generator=generator)])
            vectors = substitute(view.public[rows])
            made = scale(vectors)
            teller.descend(F.softplus(-judge(real)).mean() + F.softplus(judge(made.detach())).mean())
            loss = F.softplus(-judge(made)).mean() + self.config.weight * mismatch(made, real)
            if self.config.labels:
                loss = loss + self.config.labels * _loss_through_top(vectors, view, rows)
            learner.descend(loss)

    def _invert(
        self, inverse: nn.Module, substitute: nn.Module, scale: _Scale, public: Tensor, generator: torch.Generator
    ) -> None:
        training = NetworkTraining([inverse], self.config.learning_rate)
        for rows in self._batches(len(public), generator):
            with torch.no_grad():
                made = scale(substitute(public[rows]))
            training.descend(F.mse_loss(inverse(made), public[rows]))

    def _batches(self, count: int, generator: torch.Generator) -> list[Tensor]:
        passes = (torch.randperm(count, generator=generator) for _ in range(self.config.epochs))
        return [rows for order in passes for rows in order.split(self.config.batch_size)]


@dataclass(frozen=True)
class _Scale:
    """Standardises vectors by the mean and standard deviation of the party's vectors."""

    mean: Tensor
    spread: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) / self.spread


def _loss_through_top(vectors: Tensor, view: CutView, rows: Tensor) -> Tensor:
    """Return the top's loss on labels of public examples; other parties' vectors are set to their mean.

    Raises:
        NotApplicable: the attacker has no top or no public labels.
    """
    last = view.steps[-1]
    if last.top is None or view.public_labels is None:
        raise NotApplicable("it needs the attacker's own top and public labels, or labels = 0")
    means = torch.cat([sent.mean(0) for sent in last.up.values()])
    first, end = view.place
    whole = torch.cat([means[:first].expand(len(vectors), -1), vectors, means[end:].expand(len(vectors), -1)], 1)
    return F.cross_entropy(last.top(whole), view.public_labels[rows])
