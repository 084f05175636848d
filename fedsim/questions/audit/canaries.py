"""Canary audit of a client's private training: fair coins include canaries, and scores guess the coins.

Canary i is a separate example: a large input entry, zeros elsewhere, so that the gradients of different canaries hardly
overlap. The included canaries are all of the client's data, and join each step with the mechanism's sampling rate. The
training is the scenario's own with all defenses, and every round starts from the same weights: an adversary may choose
both. The weights are the initial weights or the same with a small first layer and large later layers, whichever gives
less overlap. Score: inner product of the summed updates with the canary's normalised gradient, minus the mean score of
its class. Bounds: `fedsim.privacy.one_run`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import ClientRefusal
from fedsim.core.time_budget import check_deadline
from fedsim.core.types import Batch, Memory, Tensors
from fedsim.federation.client import local_training
from fedsim.privacy.accounting import Spent
from fedsim.privacy.audit import coins
from fedsim.privacy.claims import Claim
from fedsim.privacy.one_run import AuditResult, evaluate_runs, plan_audit
from fedsim.record import GuaranteeRecord
from fedsim.scenario.data import Data
from fedsim.scenario.world import World

_STANDS_OUT = 20.0  # normalised input units, far above any pixel
_FIRST, _LATER = (
    0.01,
    5.0,
)  # factors on weights, for small canary activations and large gradients of later layers
_COMPARED = 30  # canaries


def can_audit(world: World, guarantee: GuaranteeRecord) -> bool:
    """Return whether a guarantee is record-level, for a client's mechanism, with steps and a finite epsilon."""
    of_a_client = guarantee.source in world.facts.client_mechanisms
    return of_a_client and guarantee.unit == "record" and guarantee.steps > 0 and math.isfinite(guarantee.epsilon)


def audit_guarantee(
    world: World,
    guarantee: GuaranteeRecord,
    *,
    canaries: int,
    guesses: int | None,
    runs: int,
    client: int,
    confidence: float,
) -> AuditResult:
    """Return the result of a canary audit of a guarantee accepted by `can_audit`."""
    spec = world.data.dataset.spec
    examples = _canaries(canaries, spec.shape, spec.classes)
    seed, purpose = world.scenario.seed, f"audit {guarantee.source}"
    spent = Spent(guarantee.noise_multiplier, guarantee.sampling_rate, guarantee.steps)
    claim = Claim((spent,), guarantee.delta)
    simulated = np.random.default_rng(seeding.derive(seed, f"{purpose}, simulated"))
    plan = plan_audit(claim, canaries, runs, confidence, simulated, guesses)
    rounds = max(1, guarantee.steps // world.facts.client_mechanisms[guarantee.source].steps)
    included = [coins(canaries, seeding.generator(seed, purpose, run)) for run in range(runs)]
    rate, seeds = guarantee.sampling_rate, [seeding.derive(seed, purpose, run) for run in range(runs)]
    scores = [
        _scores(training_on(world, examples, canary, rate, of_run), examples, rounds, client)
        for canary, of_run in zip(included, seeds, strict=True)
    ]
    return evaluate_runs(claim, plan, torch.stack(included).numpy(), torch.stack(scores).double().numpy())


@dataclass(frozen=True)
class _Examples(Data):
    """Data whose clients train on given examples; all public facts stay.

    Attributes:
        included_indices: indices of the included examples among the training examples.
        rate: probability that an included example is in a step's batch.
    """

    included_indices: Tensor
    rate: float

    def choices(self, client: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the indices of the training examples of every local step."""
        for _ in range(self.steps(client)):
            yield self.included_indices[
                torch.rand(len(self.included_indices), generator=generator, dtype=torch.float64) < self.rate
            ]


def training_on(world: World, examples: Batch, included: Tensor, rate: float, seed: int) -> World:
    """Return a world with clients that train on the given examples, with Poisson sampling at rate `rate`.

    Args:
        world: source of all public facts.
        examples: examples of the same shape as the data set's.
        included: mask of the examples that clients have, boolean (N,).
        rate: sampling rate in [0, 1].
        seed: seed of the training.
    """
    dataset = replace(world.data.dataset, train=examples, users=None)
    numbers = included.nonzero()[:, 0]
    data = _Examples(dataset, world.data.shares, world.data.federation, world.data.seed, numbers, rate)
    return world.with_data(data, seed)


def _canaries(count: int, shape: tuple[int, ...], classes: int) -> Batch:
    numbers = torch.arange(count)
    inputs = torch.zeros(count, *shape)
    flat = inputs.view(count, -1)
    flat[numbers, numbers % flat.shape[1]] = _STANDS_OUT
    return Batch(inputs, numbers % classes)


def _scores(world: World, canaries: Batch, rounds: int, client: int) -> Tensor:
    """Return a membership score of each canary, shape (canaries,)."""
    model = world.models.new().eval()
    for weights in sorted(
        _weights(model), key=lambda weights: _overlap(world, _load_weights(weights, model), canaries)
    ):
        with suppress(ClientRefusal):  # a client that checks the received weights may refuse crafted weights
            total = _sum_of_updates(world, weights, rounds, client)
            products = [_product(total, slope) for slope in _slopes(world, _load_weights(weights, model), canaries)]
            return _center_by_class(torch.tensor(products), canaries.labels)
    raise ClientRefusal("the audited client trains neither on the first weights nor on others, so it cannot be audited")


def _weights(model: nn.Module) -> Iterator[Tensors]:
    """Yield candidate weights: the initial weights, and the same with a small first layer and large later layers."""
    first = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    yield first
    layers = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    factors = {name: _LATER if number else _FIRST for number, name in enumerate(layers)}
    yield {name: factors[name] * tensor if name in factors else tensor for name, tensor in first.items()}


def _load_weights(weights: Tensors, model: nn.Module) -> nn.Module:
    model.load_state_dict(weights)
    return model


def _sum_of_updates(world: World, weights: Tensors, rounds: int, client: int) -> Tensors:
    memory: Memory = {}
    total: Tensors = {}
    for round_ in range(1, rounds + 1):
        check_deadline()
        update, _ = local_training(world, weights, round_, client, memory)
        total = {name: total.get(name, 0.0) + tensor for name, tensor in update.tensors.items()}
    return total


def _slopes(world: World, model: nn.Module, canaries: Batch) -> Iterator[Tensors]:
    """Yield the normalised gradient of each canary."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for example, label in zip(canaries.inputs, canaries.labels, strict=True):
        loss = world.task.loss(model(example[None]), label[None])
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt().clamp_min(1e-12)
        yield {name: gradient / norm for name, gradient in zip(parameters, gradients, strict=True)}


def _product(first: Tensors, second: Tensors) -> float:
    return sum(float((tensor * second[name]).sum()) for name, tensor in first.items() if name in second)


def _overlap(world: World, model: nn.Module, canaries: Batch) -> float:
    """Return the mean absolute cosine of gradients of canaries of the same class, in [0, 1]; lower is better."""
    of_a_class = canaries.labels == canaries.labels[0]
    compared = Batch(canaries.inputs[of_a_class][:_COMPARED], canaries.labels[of_a_class][:_COMPARED])
    slopes = [torch.cat([tensor.flatten() for tensor in slope.values()]) for slope in _slopes(world, model, compared)]
    products = torch.stack(slopes) @ torch.stack(slopes).T
    return float((products - products.diag().diag()).abs().mean())


def _center_by_class(scores: Tensor, labels: Tensor) -> Tensor:
    """Return scores minus the mean of their class, which removes the gradients' class component."""
    means = torch.bincount(labels, scores) / torch.bincount(labels).clamp_min(1)
    return scores - means[labels]
