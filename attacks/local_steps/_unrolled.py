"""Differentiable simulation of a client's local training: D(X) = theta_0 - theta_K(X) for dummy inputs X.

Weight deltas are compared in units of a single gradient, D / (step size times K), so that a single step on the whole
batch gives the same values as the comparison of gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice

import torch
from torch import Tensor

from attacks.core.matching.comparison import RowComparison
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import Values
from attacks.core.mean_gradient import as_gradient, gradient_weight
from attacks.local_steps._multistep import batch_sizes, sites_for
from fedsim.core.nets.gradients import gradient_of
from fedsim.core.types import DropoutSite, Masks, Observation, Tensors


@dataclass(frozen=True)
class SimulatedStep:
    """One step of the simulated client.

    Attributes:
        examples: indices of the batch's examples, counted over all passes: example n of pass e is e N + n.
        sites: dropout sites for this batch.
    """

    examples: Tensor
    sites: tuple[DropoutSite, ...]


def local_steps(observation: Observation) -> tuple[SimulatedStep, ...]:
    """Return the steps of a client that passes over its N examples in the same order every time.

    A step on an empty batch has no forward pass, and so no masks.
    """
    sizes = batch_sizes(observation)
    return tuple(
        SimulatedStep(torch.arange(end - size, end), sites_for(observation, size) if size else ())
        for size, end in zip(sizes, accumulate(sizes), strict=True)
    )


def dealt(labels: Tensor, observation: Observation) -> Tensor:
    """Return sorted labels (N,), dealt out like cards to the batches of the first pass.

    The true distribution over batches is unknown, so every batch gets about the same share of each class.
    """
    places: list[tuple[int, int, int]] = []
    for batch, size in enumerate(batch_sizes(observation)):
        places += [(position, batch, len(places) + position) for position in range(size)]
    order = [place for _, _, place in sorted(places[: len(labels)])]
    arranged = torch.empty_like(labels)
    arranged[torch.tensor(order)] = labels
    return arranged


class UnrolledComparison(RowComparison):
    """Simulates K steps of SGD for one row after the other, and compares the weight deltas.

    Dummy inputs are used in the order of the examples, cyclically if the steps visit more examples than dummies exist.
    """

    name = "unrolled"

    def __init__(
        self,
        client: SimulatedClient,
        observations: Sequence[Observation],
        steps: Sequence[SimulatedStep],
        checkpointed: bool,
    ) -> None:
        """Keep references to the observed tensors.

        Args:
            client: model and loss; its `names` are the compared parameters.
            observations: victims with the same local training.
            steps: steps of the simulated client.
            checkpointed: keep only the weights between steps, and recompute each step in the backward pass.
        """
        first = observations[0]
        super().__init__(client, [as_gradient(observation).update.tensors for observation in observations])
        self._trained = replace(client, names=tuple(n for n, p in first.model.named_parameters() if p.requires_grad))
        self._steps = steps
        self._step_size = 1.0 if first.update.kind == "gradient" else first.learning_rate
        self._momentum = float(first.optimizer_settings.get("momentum", 0.0))
        self._weight = gradient_weight(first) / self._step_size
        self._checkpointed = checkpointed

    def gradient(
        self, inputs: Tensor, masks: Masks, labels: Tensor, variables: Values, victim: int
    ) -> tuple[Tensor, ...]:
        """Return the mean gradient of all steps: the sum of velocities, divided by its weight.

        Args:
            inputs: shape (N or more, *shape).
            masks: masks of step 1 in call order, then the masks of step 2, and so on; or none.
            labels: shape (N or more,), or probabilities.
            variables: further unknowns of the steps, for subclasses that use them.
            victim: index of the victim.
        """
        total = velocity = tuple(torch.zeros_like(p) for p in self._trained.parameters.values())
        given = iter(masks)
        for step in self._steps:
            chosen = (step.examples % len(inputs)).to(inputs.device)
            step_masks = tuple(islice(given, len(step.sites)))
            total, velocity = self._run(step, inputs[chosen], labels[chosen], step_masks, variables, total, velocity)
        by_name = dict(zip(self._trained.names, total, strict=True))
        return tuple(by_name[name] / self._weight for name in self.client.names)

    def _run(self, *step: object) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        if not self._checkpointed:
            return self._advance(*step)  # type: ignore[arg-type]
        from torch.utils.checkpoint import checkpoint  # noqa: PLC0415 - few searches need it

        return checkpoint(self._advance, *step, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]

    def _advance(
        self,
        step: SimulatedStep,
        inputs: Tensor,
        labels: Tensor,
        masks: Masks,
        variables: Values,
        total: tuple[Tensor, ...],
        velocity: tuple[Tensor, ...],
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the sum of velocities and the velocity after one step of SGD."""
        weights = {
            name: (received - self._step_size * moved).requires_grad_()
            for (name, received), moved in zip(self._trained.parameters.items(), total, strict=True)
        }
        gradient = tuple(torch.zeros_like(moved) for moved in total)
        if len(inputs):  # a step on an empty Poisson batch has no loss
            loss = self._loss(step, inputs, labels, masks, weights, variables)
            gradient = tuple(gradient_of(loss, weights, create_graph=True).values())
        velocity = tuple(self._momentum * v + g for v, g in zip(velocity, gradient, strict=True))
        return tuple(t + v for t, v in zip(total, velocity, strict=True)), velocity

    def _loss(
        self, step: SimulatedStep, inputs: Tensor, labels: Tensor, masks: Masks, weights: Tensors, variables: Values
    ) -> Tensor:
        """Return the loss of a step at given weights. Subclasses override it for clients that change the batch."""
        client = replace(self._trained, sites=step.sites)
        return client.loss(client.outputs(inputs, masks, weights), labels)
