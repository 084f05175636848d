"""Data leakage in federated averaging: all local steps are simulated from the dummies, and the changes are matched.

The client sends D = theta_0 - theta_K after K steps of SGD. From dummies X the attacker computes D(X) differentiably
through all steps and minimises 1 - cos(D(X), D) or the squared distance, both in units of one gradient (Dimitrov,
Balunovic, Konstantinov, Vechev 2022, arXiv 2206.12395). The client's random order is not known: batches are simulated
in one fixed order, with labels dealt out evenly. Dummies either serve all passes, or every pass has its own with
|mean X_e - mean X_e'|^2 added to the objective, which no order changes; then they are matched within each label and
averaged at the end. With one step on one batch this is gradient matching.

Threat model: honest-but-curious server, one update, plain SGD or SGD with momentum of known step size; the number of
examples and the batch size must be known. Labels are granted, or counted from the last layer's change with the
probabilities along the way. Unknown dropout masks: every step has its own, all are optimised, after a part of the
search that takes the update for one gradient; without the rates, forward passes have no dropout.
Fails when the weights move far: many steps of large size, whose simulation depends on the true order of the examples;
and with many passes under dropout, where unknown masks outnumber what the update tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.progress import continued
from attacks.core.starts import first_inputs
from attacks.core.unknowns import MASKS
from attacks.gradient_matching._comparison import Distance, cosine, squared
from attacks.gradient_matching._engine import Found, Search, descend
from attacks.gradient_matching.base import Searched
from attacks.local_steps._multistep import (
    MultiStepAttack,
    MultiStepConfig,
    as_gradient,
    batch_sizes,
    number_of_examples,
    sites_for,
)
from attacks.local_steps._unrolled import UnrolledComparison, dealt, local_steps
from fedsim.core.registry import attack
from fedsim.core.types import Masks, Observation, OnStep, Reconstruction

_DISTANCES: dict[str, Distance] = {"cosine": cosine, "squared": squared}
_CHECKPOINTED = 100_000_000  # weights in all steps of all rows, from which memory counts more than time


class FedAvgInversionConfig(MultiStepConfig):
    """Settings of the inversion of federated averaging."""

    distance: Literal["cosine", "squared"] = Field(
        default="cosine", description="of changes of weights, in units of one gradient"
    )
    dummies: Literal["shared", "separate"] = Field(
        default="shared",
        description="shared: the same in every pass; separate: each pass has its own, averaged at last",
    )
    agreement: float = Field(default=1.0, ge=0, description="separate: weight of the distance of the passes' means")
    warm_start: float = Field(
        default=0.5, ge=0, lt=1, description="share of the iterations that take the update for one gradient, first"
    )


@final
@attack("fedavg-inversion", summary="simulates all local steps and matches the update", paper="2206.12395")
class FedAvgInversion(MultiStepAttack[FedAvgInversionConfig]):
    """Gradient matching through the client's whole local training."""

    def plan(self, observations: Sequence[Observation]) -> Search:
        """Optimise dummies and the masks of all steps."""
        sites = tuple(site for step in local_steps(observations[0]) for site in step.sites)
        examples = number_of_examples(observations[0])

        def prior(inputs: Tensor, masks: Masks, victims: Sequence[int]) -> Tensor:
            return self.smoothness(inputs, masks, victims) + self.config.agreement * disagreement(inputs, examples)

        return Search(
            self.masks(observations[0], sites), self.first(observations), prior, _DISTANCES[self.config.distance]
        )

    def dummies(self, observation: Observation) -> int:
        """Return N, or the visits of all passes."""
        return number_of_examples(observation) if self.config.dummies == "shared" else sum(batch_sizes(observation))

    def labels(self, observation: Observation) -> Tensor:
        """Deal the labels out to the batches, in every pass alike."""
        labels = super().labels(observation)
        arranged = dealt(labels, observation) if observation.local_steps > 1 else labels
        return arranged[torch.arange(self.dummies(observation)) % len(arranged)]

    def descended(self, searched: Searched) -> tuple[list[Found], str]:
        """Take the update for one gradient first; go on from the end of every start through all steps."""
        observations, labels, generators, on_steps = searched
        observation, plan = observations[0], self.plan(observations)
        comparison = UnrolledComparison(
            self.setting(observation, plan),
            observations,
            local_steps(observation),
            checkpointed=self._weights(observation) > _CHECKPOINTED,
        )
        pace, box = self.pace(), self.box(observation)
        warm = round(self.config.warm_start * pace.iterations) if observation.local_steps > 1 else 0
        if not warm:
            rows = descend(comparison, plan, labels, self.config.trials, pace, box, generators, on_steps)
            return rows, comparison.name
        rows = []
        rest = pace._replace(iterations=pace.iterations - warm)
        for early in self._as_one_gradient(observation, labels[0], warm, generators, on_steps):
            told = [continued(on_steps[0], restarts=early.start, done=warm, iterations=pace.iterations)]
            later = self._continued(observation, plan, early)
            (row,) = descend(comparison, later, labels, 1, rest, box, generators, told)
            row.start, row.iteration = early.start, row.iteration + len(early.objectives)
            row.objectives = early.objectives + row.objectives
            rows.append(row)
        return rows, comparison.name

    def reported(self, observation: Observation, rows: Sequence[Found], labels: Tensor, path: str) -> Reconstruction:
        """Bring the dummies of all passes together; masks of several steps belong to no single forward pass."""
        best = super().reported(observation, rows, labels, path)
        examples = number_of_examples(observation)
        masks = best.masks if observation.local_steps == 1 else None
        inputs = averaged(best.inputs, labels, examples)
        return replace(best, inputs=inputs, labels=labels[:examples].clone(), masks=masks)

    def _as_one_gradient(
        self,
        observation: Observation,
        labels: Tensor,
        iterations: int,
        generators: Sequence[torch.Generator],
        on_steps: Sequence[OnStep],
    ) -> list[Found]:
        """Return the ends of a search for N examples whose one gradient is the mean gradient of all steps."""
        examples = number_of_examples(observation)
        shape = (examples, *observation.spec.shape)
        sites = sites_for(observation, examples)
        plan = Search(
            self.masks(observation, sites),
            lambda _v, g: first_inputs(self.config.start, shape, self.config.pattern, g),
            self.smoothness,
            sites=sites,
        )
        single = replace(as_gradient(observation), batch_size=examples)
        comparison = self.comparison([single], plan)
        pace = self.pace()._replace(iterations=iterations)
        told = [continued(on_steps[0], iterations=self.config.iterations)]
        box, trials = self.box(observation), self.config.trials
        return descend(comparison, plan, [labels[:examples]], trials, pace, box, generators, told)

    def _weights(self, observation: Observation) -> int:
        weights = sum(parameter.numel() for parameter in observation.model.parameters())
        return weights * observation.local_steps * self.config.trials

    def _continued(self, observation: Observation, plan: Search, early: Found) -> Search:
        """Return the plan with the dummies and masks of an earlier search as its start, in every pass and step."""
        examples = number_of_examples(observation)
        every = early.inputs[torch.arange(self.dummies(observation), device=early.inputs.device) % examples]
        unknowns = plan.unknowns.starting_at({MASKS: _by_step(early.masks, observation)})
        return replace(plan, unknowns=unknowns, first=lambda _victim, _generator: every)


def disagreement(inputs: Tensor, examples: int) -> Tensor:
    """Return the mean over neighbouring complete passes of |mean X_e - mean X_e'|^2 a number, shape (R,).

    Args:
        inputs: dummies of one pass after the other, shape (R, visits, *shape).
        examples: visits of a pass.
    """
    means = [own.mean(1) for own in inputs.split(examples, 1) if own.shape[1] == examples]
    if len(means) == 1:
        return inputs.new_zeros(len(inputs))
    return torch.stack([(a - b).square().flatten(1).mean(1) for a, b in pairwise(means)]).mean(0)


def averaged(inputs: Tensor, labels: Tensor, examples: int) -> Tensor:
    """Return the mean of all passes, shape (N, *shape), after matching each to the first within every label.

    Args:
        inputs: dummies of one pass after the other, shape (visits, *shape).
        labels: one a dummy.
        examples: N, visits of a pass.
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - most searches have nothing to match

    first, total, counts = inputs[:examples], inputs[:examples].clone(), torch.ones(examples)
    for own, named in zip(inputs[examples:].split(examples), labels[examples:].split(examples), strict=True):
        costs = torch.cdist(own.flatten(1).double(), first.flatten(1).double()).square()
        foreign = named[:, None] != labels[None, :examples]
        costs = torch.where(foreign, costs.sum() + 1.0, costs).nan_to_num(nan=torch.finfo(torch.float64).max)
        rows, columns = (torch.as_tensor(index) for index in linear_sum_assignment(costs.numpy()))
        total[columns] += own[rows]
        counts[columns] += 1
    return total / counts.view(-1, *(1 for _ in inputs.shape[1:])).to(total)


def _by_step(masks: Masks, observation: Observation) -> Masks:
    """Return the masks of N examples as those of every step, in the order of the steps."""
    examples = number_of_examples(observation)
    grouped = [mask.unflatten(0, (examples, -1)) for mask in masks]
    return tuple(
        mask[(step.examples % examples).to(mask.device)].flatten(0, 1)
        for step in local_steps(observation)
        for mask in grouped[: len(step.sites)]
    )
