"""completion: put a head on the party's own trained bottom, and train it with a few known labels.

Idea: the bottom was trained to help the top, so its outputs separate the classes with few labels.
Equation: min CE(head(z_known), y) + w CE(head(z), q), z = f_A(x) standardised, q the sharpened probabilities
    (temperature T) of a moving mean of the head.
Assumes: the party's own bottom and columns; a few labels of each class.
Recovers: the labels, as far as columns and training together predict them.
Fails: it uses no gradient, and is hardly better than the same head on the party's raw columns, its control.
Source: Fu et al. 2022, USENIX Security, section 4.1 (passive model completion); MixMatch is left out.
"""

from __future__ import annotations

import copy
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attacks.core.training import NetworkTraining
from attacks.vertical._directions import check_known
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutLabelAttack
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence


class CompletionConfig(Config):
    """Settings of completion."""

    steps: int = Field(default=300, ge=1, description="of Adam, on all examples at once")
    learning_rate: float = Field(default=0.01, gt=0)
    temperature: float = Field(default=0.8, gt=0, description="that sharpens guessed probabilities")
    weight: float = Field(default=0.5, ge=0, description="of examples without a known label")
    decay: float = Field(default=0.99, ge=0, lt=1, description="of the moving mean of the head, a step")


@final
@attack(
    "completion",
    summary="labels by a head on the party's own bottom",
    tier="core",
    paper="Fu et al. 2022, USENIX Security",
    fidelity="variant",
    deviates="self-training by a moving mean in place of MixMatch",
    paper_steps=(
        ("top trained on few labels over the party's bottom", "Completion.search"),
        ("semi-supervised training by MixMatch", ""),
    ),
)
class Completion(CutLabelAttack[CompletionConfig]):
    """Trains a head on the bottom's outputs."""

    reads: ClassVar[Evidence] = "bottom"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"few-labels"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return the outputs of the head, shape (N, classes)."""
        check_known(view)
        if view.columns is None:
            raise NotApplicable("it needs the party's own columns")
        with torch.no_grad():
            states = view.bottom(view.columns)
        states = (states - states.mean(0)) / states.std(0).clamp_min(1e-6)
        with seeding.isolate_randomness(generator.initial_seed()):
            head = nn.Linear(states.shape[1], view.classes).double()
        teacher = copy.deepcopy(head)
        training = NetworkTraining([head], self.config.learning_rate)
        for step in range(self.config.steps):
            training.descend(self._loss(head, teacher, states, view, step))
            with torch.no_grad():
                for mean, weight in zip(teacher.parameters(), head.parameters(), strict=True):
                    mean.lerp_(weight, 1 - self.config.decay)
        return teacher(states[view.rows])

    def _loss(self, head: nn.Module, teacher: nn.Module, states: Tensor, view: CutView, step: int) -> Tensor:
        """Return the loss on known labels, plus the loss on all examples against the moving mean's predictions."""
        with torch.no_grad():
            guessed = (teacher(states) / self.config.temperature).softmax(1)
        growing = self.config.weight * step / self.config.steps  # an untrained head's predictions are uninformative
        return F.cross_entropy(head(states[view.known_rows]), view.labels) + growing * F.cross_entropy(
            head(states), guessed
        )
