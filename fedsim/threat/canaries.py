"""A client's private training put to the test: canaries are added or left out by fair coins, and guessed afterwards.

Canary i is an example of its own: one entry of the input stands out, all others are 0, so that the gradients of
different canaries hardly overlap. Those that are in are all that the client owns, and take part in every step with the
probability that the mechanism states. The training is the scenario's own, with all its defenses, at the first weights
in every round: an adversary may choose both. Score: the inner product of all updates with the canary's normalised
gradient, less the mean score of its class. The bound is that of `fedsim.privacy.audit`; an audit can contradict a
claimed epsilon, and never prove one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.types import Batch, Memory
from fedsim.federation.client import local_training
from fedsim.privacy.audit import Audit, audit, coins
from fedsim.record import GuaranteeRecord
from fedsim.scenario.data import Data
from fedsim.scenario.world import World

_STANDS_OUT = 20.0  # normalised input units, far above any pixel


def can_audit(world: World, guarantee: GuaranteeRecord) -> bool:
    """Say whether a guarantee is one for a record of a client; those for whole clients are not audited."""
    of_a_client = guarantee.source in world.facts.client_mechanisms
    return of_a_client and guarantee.unit == "record" and guarantee.steps > 0


def audit_guarantee(
    world: World, guarantee: GuaranteeRecord, *, canaries: int, guesses: int, client: int, confidence: float
) -> Audit:
    """Return what canaries in a client's training show about a guarantee that `can_audit`."""
    rounds = max(1, guarantee.steps // world.facts.client_mechanisms[guarantee.source].steps)
    included = coins(canaries, seeding.generator(world.scenario.seed, f"audit {guarantee.source}"))
    scores = _scores(*_with_canaries(world, included, guarantee.sampling_rate), rounds, client)
    return audit(included, scores, guesses, guarantee.delta, confidence)


@dataclass(frozen=True)
class _Canaries(Data):
    """Data whose clients train on canaries in place of their own examples; all that is public about it stays.

    Attributes:
        included: numbers of those that are in, among the training examples.
        rate: probability that one of them is in a step's batch.
    """

    included: Tensor
    rate: float

    def choices(self, client: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the numbers of the training examples of every local step."""
        for _ in range(self.steps(client)):
            yield self.included[torch.rand(len(self.included), generator=generator, dtype=torch.float64) < self.rate]


def _with_canaries(world: World, included: Tensor, rate: float) -> tuple[World, Batch]:
    """Return the world in which canaries are trained on, and all canaries, those left out among them."""
    train, spec = world.data.dataset.train, world.data.dataset.spec
    canaries = _canaries(len(included), spec.shape, spec.classes)
    longer = Batch(torch.cat((train.inputs, canaries.inputs)), torch.cat((train.labels, canaries.labels)))
    dataset = replace(world.data.dataset, train=longer, users=None)
    numbers = len(train) + included.nonzero()[:, 0]
    data = _Canaries(dataset, world.data.shares, world.data.federation, world.data.seed, numbers, rate)
    return replace(world, data=data), canaries


def _canaries(count: int, shape: tuple[int, ...], classes: int) -> Batch:
    numbers = torch.arange(count)
    inputs = torch.zeros(count, *shape)
    flat = inputs.view(count, -1)
    flat[numbers, numbers % flat.shape[1]] = _STANDS_OUT
    return Batch(inputs, numbers % classes)


def _scores(world: World, canaries: Batch, rounds: int, client: int) -> Tensor:
    """Return how much each canary seems to have taken part, shape (canaries,)."""
    memory: Memory = {}
    total: dict[str, Tensor] = {}
    for round_ in range(1, rounds + 1):
        update, _ = local_training(world, world.models.first_weights, round_, client, memory)
        total = {name: total.get(name, 0.0) + tensor for name, tensor in update.tensors.items()}
    model = world.models.new().eval()
    parameters = {name: p for name, p in model.named_parameters() if name in total}
    scores: list[float] = []
    for example, label in zip(canaries.inputs, canaries.labels, strict=True):
        loss = world.task.loss(model(example[None]), label[None])
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        products = ((total[name] * slope).sum() for name, slope in zip(parameters, gradients, strict=True))
        norm = torch.stack([slope.square().sum() for slope in gradients]).sum().sqrt().clamp_min(1e-12)
        scores.append(float(sum(products) / norm))
    return _beside_their_class(torch.tensor(scores), canaries.labels)


def _beside_their_class(scores: Tensor, labels: Tensor) -> Tensor:
    """Return scores less the mean of their class: what the gradients of a class have in common tells nothing."""
    means = torch.bincount(labels, scores) / torch.bincount(labels).clamp_min(1)
    return scores - means[labels]
