"""The search of DLG, iDLG and CPL: L-BFGS on dummies, restarted if a start diverges.

The objective is |g - g*|^2 over all parameters plus the priors. Dropout masks of known rates are unknowns like the
dummy, as logits, since L-BFGS cannot project; with unknown rates the search runs without dropout. Gradients are
computed explicitly: close to the truth the differences of the ghost comparison would be rounding errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import LBFGS

from attacks.core.defense_facts import searched_sites, wire_of
from attacks.core.matching.attack import GradientSearch, GradientSearchConfig, best_row
from attacks.core.matching.descent import DescentSettings, RestartResult, VictimGroup
from attacks.core.matching.optimizers import RELATIVE_IMPROVEMENT
from attacks.core.matching.simulated_client import simulated_client
from attacks.core.matching.terms import DistanceChoice, PriorChoice, distance_setting, prior_settings
from attacks.core.matching.unknown_masks import OptimisedMasks
from attacks.core.matching.unknowns import Unknowns
from fedsim.core.time_budget import OUT_OF_TIME
from fedsim.core.types import Observation, Reconstruction, View

_KINKED = ("ReluBackward", "LeakyReluBackward", "HardtanhBackward", "PreluKernelBackward")


class LbfgsConfig(GradientSearchConfig):
    """Settings of L-BFGS."""

    distance: DistanceChoice = distance_setting("squared")
    priors: tuple[PriorChoice, ...] = prior_settings({})
    max_iterations: int = Field(default=300, ge=1, description="maximum number of iterations per start")
    inner: int = Field(default=20, ge=1, description="most steps within an iteration")
    learning_rate: float = Field(default=1.0, gt=0, description="factor on the length of L-BFGS's steps")
    line_search: Literal["none", "strong-wolfe"] = Field(
        default="strong-wolfe", description="none: every step has the same length, and many starts diverge"
    )
    history_size: int = Field(default=100, ge=1, description="steps from which L-BFGS estimates the curvature")
    restarts: int = Field(default=10, ge=0, description="restarts, each after a start that diverged")
    divergence_threshold: float = Field(
        default=1e-2,
        gt=0,
        description="a start whose distance exceeds this share of |g*|^2 counts as diverged",
    )
    threshold: float = Field(default=1e-10, ge=0, description="stop when the objective is below this share of |g*|^2")
    patience: int = Field(
        default=10, ge=1, description="stop after this many iterations that did not improve the objective by 0.01 %"
    )


ConfigT = TypeVar("ConfigT", bound=LbfgsConfig)


class LbfgsAttack(GradientSearch[ConfigT]):
    """An attack that matches a single gradient by L-BFGS."""

    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return settings without restarts, and with as many iterations as the inner steps allow."""
        return {"max_iterations": max(1, gradients // LbfgsConfig().inner), "restarts": 0}

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the logits of the masks."""
        sites = searched_sites(observations[0])
        return Unknowns((OptimisedMasks(sites=sites, begin="mean", relaxation="sigmoid"),))

    def descent_settings(self) -> DescentSettings:
        """Return L-BFGS with its settings."""
        config = self.config
        return DescentSettings(
            iterations=config.max_iterations,
            rate=config.learning_rate,
            stall=config.patience,
            improvement=RELATIVE_IMPROVEMENT,
            optimizer=self._optimizer,
        )

    def _optimizer(self, variables: list[Tensor]) -> torch.optim.Optimizer:
        return LBFGS(
            variables,
            lr=self.config.learning_rate,
            max_iter=self.config.inner,
            history_size=self.config.history_size,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe" if self.config.line_search == "strong-wolfe" else None,
        )

    def max_victims(self, observation: Observation) -> int:
        """Return 1: the number of restarts depends on the victim."""
        return 1

    def run_search(self, victims: VictimGroup) -> tuple[list[RestartResult], str]:
        """Restart until a start converges."""
        (observation,), starts = victims.observations, 1 + self.config.restarts
        descent = replace(self.descent(victims, self.plan(victims)), restarts=1)
        settings = descent.settings._replace(threshold=self.config.threshold * _size(observation))
        rows: list[RestartResult] = []
        while len(rows) < starts and all(self._has_diverged(row, observation) for row in rows):
            done = len(rows) * settings.iterations
            part = victims.as_part(restarts=len(rows), done=done, iterations=starts * settings.iterations)
            rows += self.run_descent(replace(descent, victims=part, settings=settings))
            if rows[-1].stop_reason == OUT_OF_TIME:
                break
        return rows, descent.comparison.name

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Return the reconstruction of the start with the lowest objective."""
        facts = {
            "starts": len(rows),
            "starts that diverged": sum(self._has_diverged(row, observation) for row in rows),
            "squared distance relative to the gradient": best_row(rows).distance / _size(observation),
        }
        return replace(super().report(observation, rows, labels, path), diagnostics=facts)

    def remarks(self, observation: Observation) -> tuple[str, ...]:
        """Return notes, among them that the model has piecewise linear activations."""
        kinks = ("the model has activations without a second derivative (ReLU): L-BFGS is misled",)
        return (*super().remarks(observation), *(kinks if _has_kinks(observation) else ()))

    def _has_diverged(self, row: RestartResult, observation: Observation) -> bool:
        return not row.distance <= self.config.divergence_threshold * _size(observation)


def _size(observation: Observation) -> float:
    """Return |g*|^2."""
    wire = wire_of(observation)
    return sum(float(wire.as_compared(tensor).square().sum()) for tensor in observation.update.tensors.values())


def _has_kinks(observation: Observation) -> bool:
    """Return whether a forward pass uses a piecewise linear activation."""
    like = next(observation.model.parameters())
    example = torch.zeros((2, *observation.spec.shape), dtype=like.dtype, device=like.device)
    client = simulated_client(observation, observation.sites, True)
    nodes = [client.outputs(example.requires_grad_(), (), {}).grad_fn]
    seen: set[object] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name().startswith(_KINKED):
            return True
        seen.add(node)
        nodes += [parent for parent, _ in node.next_functions]
    return False
