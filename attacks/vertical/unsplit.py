"""unsplit: jointly search inputs and a clone of the bottom that reproduce the cut-layer activations.

Idea: an attacker who knows the bottom's architecture optimises inputs and a clone of the bottom in turn.
Equation: min over x, f' of |f'(x) - h|^2 + w_1 TV(x) + w_2 mean(x^2), some steps on x, then some on f', in turn.
Assumes: the bottom's architecture; honest training.
Recovers: rough shapes of images in its paper; of digits through two convolutions nothing nearer than their mean.
Fails: dense bottoms: (W Q^-1, Q x) sends the same for every invertible Q, so the solution is not unique; masks.
Source: Erdogan et al. 2022, arXiv 2108.09033 (UnSplit); fewer and larger steps of Adam.
"""

from __future__ import annotations

import copy
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attacks.core.training import NetworkTraining
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutFeatureAttack
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence

_IMAGE = 3  # dimensions of an image


class UnsplitConfig(Config):
    """Settings of unsplit."""

    rounds: int = Field(default=40, ge=1, description="turns of inputs and clone")
    steps: int = Field(default=20, ge=1, description="of each in a turn")
    learning_rate: float = Field(default=0.01, gt=0)
    variation: float = Field(default=0.1, ge=0, description="w_1, of the total variation of images")
    size: float = Field(default=1.0, ge=0, description="w_2, of the mean square of inputs")


@final
@attack(
    "unsplit",
    summary="inputs and a clone of the bottom, searched in turn",
    tier="core",
    paper="2108.09033",
    fidelity="variant",
    deviates="fewer and larger steps, without AMSGrad",
    paper_steps=(
        ("alternating search for inputs and bottom", "Unsplit.search"),
        ("priors on the inputs", "Unsplit._prior"),
    ),
)
class Unsplit(CutFeatureAttack[UnsplitConfig]):
    """Descends on inputs and clone in turn."""

    reads: ClassVar[Evidence] = "embeddings"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"architecture"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return the inputs, shape (N, *shape)."""
        if view.architecture is None:
            raise NotApplicable("it needs how the bottom is built")
        sent, clone = view.sent_activations(view.rows), copy.deepcopy(view.architecture)
        inputs = nn.Parameter(torch.zeros(len(sent), *view.shape, dtype=torch.double))
        of_inputs, of_clone = (
            NetworkTraining([module], self.config.learning_rate) for module in (nn.ParameterList([inputs]), clone)
        )
        for _ in range(self.config.rounds):
            for _ in range(self.config.steps):
                of_inputs.descend(F.mse_loss(clone(inputs), sent) + self._prior(inputs))
            for _ in range(self.config.steps):
                of_clone.descend(F.mse_loss(clone(inputs.detach()), sent))
        return inputs.detach()

    def _prior(self, inputs: Tensor) -> Tensor:
        prior = self.config.size * inputs.square().mean()
        if inputs.dim() == _IMAGE + 1:
            steps = inputs.diff(dim=-1).abs().mean() + inputs.diff(dim=-2).abs().mean()
            prior = prior + self.config.variation * steps
        return prior
