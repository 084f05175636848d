"""Surrogate model extension (SME): several local steps are matched by one gradient between both ends of training.

The client's change D = theta_0 - theta_T is a sum of gradients at weights from theta_0 to theta_T. SME matches its
direction by the dummies' gradient at theta(a) = (1 - a) theta_0 + a theta_T, with a in [0, 1] an unknown like the
dummies: 1 - cos(g(X; theta(a)), D) (Zhu, Yao, Blaschko, ICML 2023, no arXiv id). An iteration costs one gradient
whatever the number of steps, and no order of the examples is assumed. NL-SME bends the path: a quadratic curve whose
control point is an unknown too, held near the middle of both ends (arXiv 2509.22082).

Threat model: honest-but-curious server, one whole update of SGD, whose step size need not be known; the number of
examples must be. Labels are granted, or counted from the last layer's change. Unknown dropout masks: one a distinct
example is optimised with it, right for one pass only, since every further pass drew new ones; without the rates, no
dropout. One step is a gradient at theta_0: then a is 0, and this is gradient matching.
Fails when no single gradient points along D: long training far from the straight line, and many passes under dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from pydantic import Field
from torch import Tensor

from attacks.gradient_matching._comparison import Comparison
from attacks.gradient_matching._engine import Found, Search
from attacks.gradient_matching.base import best_row
from attacks.local_steps._multistep import MultiStepAttack, MultiStepConfig, as_gradient, number_of_examples, sites_for
from attacks.local_steps._surrogate import (
    Path,
    SurrogateComparison,
    bend_of,
    bends,
    mean_square,
    on_the_path,
    place_of,
)
from fedsim.core.registry import attack
from fedsim.core.types import Observation, Reconstruction, Tensors


class SmeConfig(MultiStepConfig):
    """Settings of SME."""

    path: Path = Field(
        default="linear", description="linear: SME; quadratic: a curve with a free control point, NL-SME"
    )
    place: float = Field(default=0.5, ge=0, le=1, description="start of a, the place on the path; 0: received weights")
    place_learning_rate: float = Field(default=1e-3, ge=0, description="Adam's step of a; 0 keeps it")
    bend_learning_rate: float = Field(
        default=1e-3,
        ge=0,
        description="quadratic: Adam's step of the control point, in root mean squares of D's tensors",
    )
    bend_weight: float = Field(
        default=1e-3,
        ge=0,
        description="quadratic: weight of the control point's squared distance from the middle, by |D|^2",
    )


@final
@attack(
    "sme", summary="one gradient between both ends of training matches the update (SME, NL-SME)", paper="2509.22082"
)
class Sme(MultiStepAttack[SmeConfig]):
    """Gradient matching at a learned point between the received and the trained weights."""

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps of which some tensors are hidden: the path's end is not known then."""
        if observation.local_steps > 1 and observation.hidden:
            return "tensors of the update are hidden, so the trained weights are not known"
        return super().not_applicable(observation)

    def dummies(self, observation: Observation) -> int:
        """Return N."""
        return number_of_examples(observation)

    def plan(self, observations: Sequence[Observation]) -> Search:
        """Optimise dummies, one mask an example, and the place on the path."""
        observation = observations[0]
        sites = sites_for(observation, number_of_examples(observation))
        masks = self.masks(observation, sites)
        search = Search(masks, self.first(observations), self.smoothness, sites=sites)
        if observation.local_steps == 1:
            return search
        config, change = self.config, _change(observation)
        bent = bends(change, config.bend_weight, config.bend_learning_rate) if config.path == "quadratic" else ()
        place = on_the_path(config.place, config.place_learning_rate)
        return replace(search, unknowns=masks.followed_by(place, *bent))

    def comparison(self, observations: Sequence[Observation], search: Search) -> Comparison:
        """Compare gradients on the path, or at the received weights for one step."""
        if observations[0].local_steps == 1:
            return super().comparison([as_gradient(observation) for observation in observations], search)
        return SurrogateComparison(self.setting(observations[0], search), observations, self.config.path)

    def reported(self, observation: Observation, rows: Sequence[Found], labels: Tensor, path: str) -> Reconstruction:
        """Say where on the path the best row ended."""
        found = super().reported(observation, rows, labels, path)
        best = best_row(rows)
        if observation.local_steps == 1:
            return found
        facts = {**found.facts, "place between received (0) and trained weights (1)": float(place_of(best.others))}
        if self.config.path == "quadratic":
            changes = _change(observation)
            bent = sum(mean_square(d) * float(best.others[bend_of(n)][0].square().sum()) for n, d in changes.items())
            whole = sum(float(d.square().sum()) for d in changes.values())
            facts["distance of the control point from the middle, by |D|"] = (bent / whole) ** 0.5
        return replace(found, masks=None, facts=facts)


def _change(observation: Observation) -> Tensors:
    """D, tensor by tensor in the order of the model."""
    tensors = observation.update.tensors
    return {name: tensors[name] for name, _ in observation.model.named_parameters() if name in tensors}
