"""sme: match several local steps by a gradient at a point between received and trained weights (SME, NL-SME).

`path = "quadratic"` is NL-SME. The surrogate sets the weights of the gradient; the `distance` of the settings, any of
`fedsim list distances`, compares the gradient with D. `fedavg-inversion` costs more and reaches further.

Idea: D = theta_0 - theta_T is a sum of gradients along the training path, so a gradient at a point between both ends is
    nearly parallel to D. The point is an unknown. Each iteration computes a single gradient, for any number of steps in
    any order.
Equation: min over X, a of 1 - cos(g(X; theta(a)), D), theta(a) = (1 - a) theta_0 + a theta_T. NL-SME: a quadratic curve
    whose control point is an unknown too, regularised towards the midpoint of both ends.
Assumes: honest-but-curious server, a whole update of SGD; the number of examples known, the step size unknown; labels
    granted or counted from the last layer's change. With a single step a is 0, and this is gradient matching.
Recovers: images and labels; masks of known rates are unknowns, a mask per distinct example, correct for a single pass
    only.
Fails: long training far from the path; many passes under dropout.
Source: Zhu, Yao, Blaschko 2023, arXiv 2306.00127; NL-SME: arXiv 2509.22082, of which the abstract was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, final

from pydantic import Field
from torch import Tensor

from attacks.core.labels import examples_of
from attacks.core.matching.attack import best_row
from attacks.core.matching.comparison import Comparison
from attacks.core.matching.descent import RestartResult, Search
from attacks.core.matching.unknowns import Unknowns
from attacks.core.mean_gradient import as_gradient
from attacks.local_steps._multistep import MultiStepAttack, MultiStepConfig, sites_for
from attacks.local_steps._surrogate import (
    Path,
    SurrogateComparison,
    bend_of,
    bends,
    make_path_unknown,
    mean_square,
    place_of,
)
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import DropoutSite, Observation, Reconstruction, Tensors

_BEND_RATE = 1e-3  # Adam's step for the control point, in root mean squares of D's tensors
_BEND_WEIGHT = 1e-3  # weight of the control point's squared distance from the middle, over |D|^2


class SmeConfig(MultiStepConfig):
    """Settings of SME."""

    path: Path = Field(
        default="linear", description="linear: SME; quadratic: NL-SME, a curve with a free control point"
    )
    place: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="start of a, the position on the path; 0: the received weights, 1: the trained weights",
    )
    place_learning_rate: float = Field(default=1e-3, ge=0, description="Adam's step for a; 0 keeps a fixed")


@final
@attack(
    "sme",
    summary="a single gradient between start and end of training matches the update (SME, NL-SME)",
    tier="baseline",
    paper="2306.00127",
    fidelity="variant",
    deviates="signed steps and other weights; dropout masks are unknowns too",
    paper_steps=(
        ("gradient at a surrogate between both weights", "attacks.local_steps._surrogate.SurrogateComparison.gradient"),
        ("place of the surrogate as an unknown", "attacks.local_steps._surrogate.place_of"),
    ),
)
class Sme(MultiStepAttack[SmeConfig]):
    """Matches gradients at a learned point between the received and the trained weights."""

    effort: ClassVar[Effort] = "descent"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps with hidden tensors: the trained weights are then unknown."""
        if observation.local_steps > 1 and observation.hidden_parameters:
            return "tensors of the update are hidden, so the trained weights are not known"
        return super().not_applicable(observation)

    def dummies(self, observation: Observation) -> int:
        """Return N, the number of distinct examples."""
        return examples_of(observation)

    def sites(self, observation: Observation) -> tuple[DropoutSite, ...]:
        """Return the dropout sites of a forward pass on all distinct examples."""
        return sites_for(observation, examples_of(observation))

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the unknowns: a mask per example and site, and for several steps the point on the path."""
        observation = observations[0]
        masks = self.masks(observation, self.sites(observation))
        if observation.local_steps == 1:
            return masks
        config, change = self.config, _change(observation)
        bent = bends(change, _BEND_WEIGHT, _BEND_RATE) if config.path == "quadratic" else ()
        return masks.followed_by(make_path_unknown(config.place, config.place_learning_rate), *bent)

    def comparison(self, observations: Sequence[Observation], search: Search) -> Comparison:
        """Compare gradients at the point on the path, or at the received weights for a single step."""
        if observations[0].local_steps == 1:
            return super().comparison([as_gradient(observation) for observation in observations], search)
        return SurrogateComparison(self.simulated_client(observations[0]), observations, self.config.path)

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Add the final point on the path to the diagnostics, and omit the masks of several steps."""
        guess = super().report(observation, rows, labels, path)
        best = best_row(rows)
        if observation.local_steps == 1:
            return guess
        diagnostics = {
            **guess.diagnostics,
            "place between received (0) and trained weights (1)": float(place_of(best.extra_values)),
        }
        if self.config.path == "quadratic":
            changes = _change(observation)
            bent = sum(
                mean_square(d) * float(best.extra_values[bend_of(n)][0].square().sum()) for n, d in changes.items()
            )
            whole = sum(float(d.square().sum()) for d in changes.values())
            diagnostics["distance of the control point from the middle, by |D|"] = (bent / whole) ** 0.5
        return replace(guess, masks=None, diagnostics=diagnostics)


def _change(observation: Observation) -> Tensors:
    """Return the weight delta D, tensor by tensor in the order of the model."""
    tensors = observation.update.tensors
    return {name: tensors[name] for name, _ in observation.model.named_parameters() if name in tensors}
