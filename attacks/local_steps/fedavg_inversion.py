"""fedavg-inversion: simulate all local steps of a client from dummy inputs, and match its weight delta.

Dummy inputs are shared by all epochs, or each epoch has its own (`dummies = "separate"`); at the end these are matched
within each label and averaged. All masks are optimised after a first part of the search that treats the update as a
single gradient. `fedsim run scenarios/13_fedavg_many_steps.toml` measures weights that move far.

Idea: the weight delta D = theta_0 - theta_K is a differentiable function of the client's data, so it can be matched
    through all steps. The random order is unknown: batches have a fixed order, with labels dealt out evenly.
Equation: min over X of 1 - cos(D(X), D), plus |mean X_e - mean X_e'|^2 if each pass e has its own dummies.
Assumes: honest-but-curious server, a single update; SGD, with or without momentum, of known step size; number of
    examples and batch size known; labels granted or counted from the last layer's change.
Recovers: images and labels. Masks of known rates are unknowns in every step; without the rates, dropout is ignored.
Fails: weights that move far (many large steps, where the true order matters); many passes under dropout, where unknown
    masks outnumber the equations. For a single step it is gradient matching.
Source: Dimitrov, Balunovic, Konstantinov, Vechev 2022, arXiv 2206.12395.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.labels import examples_of
from attacks.core.matching.comparison import Comparison
from attacks.core.matching.descent import Descent, RestartResult, Search, VictimGroup, descend
from attacks.core.matching.starts import first_inputs
from attacks.core.matching.unknowns import MASKS, Unknowns
from attacks.core.mean_gradient import as_gradient
from attacks.local_steps._multistep import (
    MultiStepAttack,
    MultiStepConfig,
    batch_sizes,
    sites_for,
)
from attacks.local_steps._unrolled import UnrolledComparison, dealt, local_steps
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import Masks, Observation, Reconstruction

_CHECKPOINTED = 100_000_000  # weights in all steps of all rows; above this, checkpointing saves memory and costs time
_WARM = 0.5  # share of the iterations, at the start, that treat the update as a single gradient


class FedAvgInversionConfig(MultiStepConfig):
    """Settings of fedavg-inversion."""

    dummies: Literal["shared", "separate"] = Field(
        default="shared",
        description="shared: the same in every pass; separate: each pass has its own, averaged at the end",
    )
    agreement: float = Field(
        default=1.0, ge=0, description="for separate: weight of the distance between the passes' means"
    )


@final
@attack(
    "fedavg-inversion",
    summary="simulates all local steps and matches the update",
    tier="core",
    paper="2206.12395",
    fidelity="variant",
    deviates="dropout masks are unknowns in every step; settings are chosen here",
    paper_steps=(
        ("simulation of all local steps", "attacks.local_steps._unrolled.UnrolledComparison.gradient"),
        ("derivatives through all steps", "attacks.local_steps._unrolled.UnrolledComparison.gradient"),
        ("prior on epochs that does not depend on the order", "disagreement"),
        ("matching and averaging of the epochs' inputs", "average"),
    ),
)
class FedAvgInversion(MultiStepAttack[FedAvgInversionConfig]):
    """Matches the update through the client's whole local training."""

    effort: ClassVar[Effort] = "descent"

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect more success than of other descents if the update has several steps."""
        if observation.local_steps > 1:
            return 0.3, "it simulates all local steps"
        return 0.08, "for a single step it is gradient matching with another schedule"

    def plan(self, victims: VictimGroup) -> Search:
        """Add the distance between the means of the passes to the prior."""
        search, examples = super().plan(victims), examples_of(victims.observations[0])

        def prior(inputs: Tensor, masks: Masks, rows: Sequence[int]) -> Tensor:
            return search.prior(inputs, masks, rows) + self.config.agreement * disagreement(inputs, examples)

        return replace(search, prior=prior)

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the masks of all steps as unknowns."""
        sites = tuple(site for step in local_steps(observations[0]) for site in step.sites)
        return self.masks(observations[0], sites)

    def dummies(self, observation: Observation) -> int:
        """Return N, or the number of visits in all passes if each pass has its own dummy inputs."""
        return examples_of(observation) if self.config.dummies == "shared" else sum(batch_sizes(observation))

    def labels(self, observation: Observation) -> Tensor:
        """Return the labels, dealt out to the batches in the same way in every pass."""
        labels = super().labels(observation)
        arranged = dealt(labels, observation) if observation.local_steps > 1 else labels
        return arranged[torch.arange(self.dummies(observation)) % len(arranged)]

    def comparison(self, observations: Sequence[Observation], search: Search) -> Comparison:
        """Compare weight deltas over all steps."""
        client, steps = self.simulated_client(observations[0]), local_steps(observations[0])
        weights = sum(p.numel() for p in observations[0].model.parameters()) * len(steps) * self.config.restarts
        return UnrolledComparison(client, observations, steps, checkpointed=weights > _CHECKPOINTED)

    def run_descent(self, descent: Descent) -> list[RestartResult]:
        """Match the update as a single gradient first; then continue every restart through all steps."""
        observation, settings = descent.victims.observations[0], descent.settings
        warm = round(_WARM * settings.iterations) if observation.local_steps > 1 else 0
        if not warm:
            return descend(descent)
        rows: list[RestartResult] = []
        remaining = settings._replace(iterations=settings.iterations - warm)
        for early in self._as_one_gradient(descent, warm):
            part = descent.victims.as_part(restarts=early.start, done=warm, iterations=settings.iterations)
            later_descent = self._warm_start_plan(observation, descent.search, early)
            (row,) = descend(replace(descent, search=later_descent, victims=part, settings=remaining, restarts=1))
            row.start, row.iteration = early.start, row.iteration + len(early.objectives)
            row.objectives = early.objectives + row.objectives
            rows.append(row)
        return rows

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Average the dummy inputs of all passes.

        Masks of several steps are omitted: no single forward pass has them.
        """
        best = super().report(observation, rows, labels, path)
        examples = examples_of(observation)
        masks = best.masks if observation.local_steps == 1 else None
        inputs = average(best.inputs, labels, examples)
        return replace(best, inputs=inputs, labels=labels[:examples].clone(), masks=masks)

    def _as_one_gradient(self, descent: Descent, iterations: int) -> list[RestartResult]:
        """Search N examples whose gradient is the mean gradient of all steps; return the result of each restart."""
        observation = descent.victims.observations[0]
        examples = examples_of(observation)
        shape = (examples, *observation.spec.shape)
        sites = sites_for(observation, examples)
        plan = replace(
            super().plan(descent.victims),
            unknowns=self.masks(observation, sites),
            first=lambda _v, g: first_inputs(self.config.start, shape, self.config.pattern, g),
        )
        single = replace(as_gradient(observation), batch_size=examples, sites=sites)
        comparison = super().comparison([single], plan)
        settings = descent.settings._replace(iterations=iterations)
        labels = [descent.victims.labels[0][:examples]]
        part = descent.victims.as_part(iterations=self.config.max_iterations)._replace(labels=labels)
        return descend(replace(descent, comparison=comparison, search=plan, victims=part, settings=settings))

    def _warm_start_plan(self, observation: Observation, plan: Search, early: RestartResult) -> Search:
        """Return the plan with the dummy inputs and masks of an earlier search as the start of every pass and step."""
        examples = examples_of(observation)
        starts = early.inputs[torch.arange(self.dummies(observation), device=early.inputs.device) % examples]
        unknowns = plan.unknowns.starting_at({MASKS: _repeat_by_step(early.masks, observation)})
        return replace(plan, unknowns=unknowns, first=lambda _victim, _generator: starts)


def disagreement(inputs: Tensor, examples: int) -> Tensor:
    """Return the mean over neighbouring complete passes of |mean X_e - mean X_e'|^2 per entry, shape (R,).

    Args:
        inputs: dummy inputs, pass after pass, shape (R, visits, *shape).
        examples: number of visits in a pass.
    """
    means = [part.mean(1) for part in inputs.split(examples, 1) if part.shape[1] == examples]
    if len(means) == 1:
        return inputs.new_zeros(len(inputs))
    return torch.stack([(a - b).square().flatten(1).mean(1) for a, b in pairwise(means)]).mean(0)


def average(inputs: Tensor, labels: Tensor, examples: int) -> Tensor:
    """Return the mean of all passes, shape (N, *shape), after matching each pass to the first within every label.

    Args:
        inputs: dummy inputs, pass after pass, shape (visits, *shape).
        labels: labels of the dummy inputs.
        examples: N, the number of visits in a pass.
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - most searches have nothing to match

    first, total, counts = inputs[:examples], inputs[:examples].clone(), torch.ones(examples)
    for part, named in zip(inputs[examples:].split(examples), labels[examples:].split(examples), strict=True):
        costs = torch.cdist(part.flatten(1).double(), first.flatten(1).double()).square()
        foreign = named[:, None] != labels[None, :examples]
        costs = torch.where(foreign, costs.sum() + 1.0, costs).nan_to_num(nan=torch.finfo(torch.float64).max)
        rows, columns = (torch.as_tensor(index) for index in linear_sum_assignment(costs.numpy()))
        total[columns] += part[rows]
        counts[columns] += 1
    return total / counts.view(-1, *(1 for _ in inputs.shape[1:])).to(total)


def _repeat_by_step(masks: Masks, observation: Observation) -> Masks:
    """Repeat the masks of N examples for every step, in the order of the steps."""
    examples = examples_of(observation)
    grouped = [mask.unflatten(0, (examples, -1)) for mask in masks]
    return tuple(
        mask[(step.examples % examples).to(mask.device)].flatten(0, 1)
        for step in local_steps(observation)
        for mask in grouped[: len(step.sites)]
    )
