"""From a trained federation to a membership attacker: the only door. Who is a member stays on this side of it."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import ScenarioError
from fedsim.core.examples import distinct
from fedsim.core.hooks import Optimizer, Task
from fedsim.core.types import Batch, Loss, Tensors, Truth, Update
from fedsim.federation import participation
from fedsim.federation.journal import Journal
from fedsim.questions.membership.types import MembershipObservation, Shadow, ShadowPlan, WatchedUpdate
from fedsim.scenario import Threat
from fedsim.scenario.world import World
from fedsim.threat.orders import secret_order
from fedsim.threat.uses import count_training


@dataclass(frozen=True)
class Case:
    """What a membership attack gets, and the truth for the scorer.

    Attributes:
        is_member: boolean, one a candidate, shape (N,).
        client: whose updates are judged; None for the model.
    """

    observation: MembershipObservation
    is_member: Tensor
    client: int | None = None

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds whose updates are judged; none for the model."""
        return tuple(watched.round for watched in self.observation.updates)


@dataclass(frozen=True)
class ShadowTraining:
    """Trains a shadow model about as the federation trained its own, in one place and without clients.

    It starts from the federation's first weights, which the server chose, passes over the examples as often, and takes
    in each step as many examples as all clients of a round took together: the mean of small steps on small batches is
    a step on one large batch. In FedAvg it uses the clients' optimizer and keeps its state to the end, in FedSGD the
    server's. Augmentations, loss terms and defenses are left out.

    Attributes:
        model: the architecture, in training mode; left as it is.
        start: its first weights.
        batch_size: examples of a step, or all when there are fewer.
        passes: over all examples in total; fractions count.
        task: what the model is trained to do.
    """

    model: nn.Module
    start: Tensors
    optimizer: Optimizer[Any]
    loss: Loss
    batch_size: int
    passes: float
    task: Task[Any]

    def __call__(self, examples: Batch, generator: torch.Generator) -> Tensors:
        """Return the trained state dict."""
        model = copy.deepcopy(self.model).train()
        model.load_state_dict(dict(self.start))
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        state: dict[str, Tensor] = {}
        with seeding.isolate_randomness(int(torch.randint(1 << 62, (), generator=generator))):
            for chosen in self._choices(len(examples), generator):
                batch = examples.taken(chosen)
                draws = self.task.named_draws(batch, generator) if self.task.draws else {}
                loss = self.loss(*self.task.answer(model, batch, draws))
                gradients = torch.autograd.grad(
                    loss, list(parameters.values()), allow_unused=True, materialize_grads=True
                )
                self.optimizer.step(parameters, dict(zip(parameters, gradients, strict=True)), state)
        return {name: tensor.detach() for name, tensor in model.state_dict().items()}

    def _choices(self, examples: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Return the numbers of the examples of every step: random passes, one behind the other."""
        size = min(self.batch_size, examples)
        steps = max(1, round(self.passes * examples / size))
        passes = -(-steps * size // examples)
        order = torch.cat([torch.randperm(examples, generator=generator) for _ in range(passes)])
        return order[: steps * size].split(size)


def check(world: World, wanted: int) -> None:
    """Check before the first round that there are so many candidates.

    Raises:
        ScenarioError: the test set is the training set, or the data set is too small.
    """
    dataset = world.data.dataset
    if torch.equal(dataset.train.inputs, dataset.test.inputs):
        raise ScenarioError(
            "membership: the test set of this data set is its training set, so there are no non-members. Choose "
            "another data set."
        )
    _check_enough(wanted, len(dataset.test) // 2, "half of the test set")
    _check_enough(wanted, len(dataset.train), "the training set")


def check_trained_on(world: World, wanted: int) -> None:
    """Check before the first round that clients whose updates should count train on so many examples.

    Raises:
        ScenarioError: they train on fewer, so there are not so many members of the model.
    """
    scenario, is_member = world.scenario, torch.zeros(len(world.data.dataset.train), dtype=torch.bool)
    for round_ in range(1, scenario.federation.rounds + 1):
        cohort = participation.cohort(scenario, round_)
        fates = participation.fates(scenario, round_, cohort, world.data.steps)
        for client in (client for client, fate in fates.items() if fate is None):
            for chosen in world.data.numbers_of(round_, client):
                is_member[chosen] = True
        is_member[_planted(world)] = False
        if is_member.sum() >= wanted:
            return
    _check_enough(wanted, int(is_member.sum()), "what clients train on", "train longer")


def of_model(world: World, journal: Journal, wanted: int, salt: bytes = b"") -> Case:
    """Return the case against the final model: who among `wanted` members, and others, was in a batch that counted?

    Planted secrets are no candidates: they are repeated, and nothing in the test set is like them.

    Args:
        world: the scenario made real.
        journal: of the whole training.
        wanted: members, and as many others.
        salt: of the run; empty where it has none.

    Raises:
        ScenarioError: fewer training examples were used than members are wanted.
    """
    uses = count_training(world, journal.rounds)
    uses[_planted(world)] = 0
    members = uses.nonzero().flatten()
    _check_enough(wanted, len(members), "the training examples that updates were computed from", "train longer")
    chosen = members[torch.randperm(len(members), generator=_generator(world, "members"))][:wanted]
    return _case(world, journal, world.data.dataset.train.taken(chosen), (), salt=salt)


def _planted(world: World) -> list[int]:
    return [number for secret in world.data.dataset.planted for number in secret.examples]


def of_updates(world: World, journal: Journal, truths: Sequence[Truth], most: int, salt: bytes = b"") -> Case:
    """Return the case against the first watched client: who among the candidates was in its batches of these rounds?

    Args:
        world: the scenario made real.
        journal: with one entry a watched update.
        truths: the private side of each entry.
        most: members to judge, if the client has so many.
        salt: of the run; empty where it has none.

    Raises:
        ScenarioError: no update was watched.
    """
    if not journal.entries:
        raise ScenarioError("membership: no watched update counted, so there is none to judge. See threat.rounds.")
    client = journal.entries[0].client
    pairs = [(entry, truth) for entry, truth in zip(journal.entries, truths, strict=True) if entry.client == client]
    batches = [batch for _, truth in pairs for batch in truth.private if len(batch)]
    if not batches:
        raise ScenarioError(f"membership: client {client} trained on no example in the watched rounds.")
    private = distinct(batches)
    order = torch.randperm(len(private), generator=_generator(world, "members"))
    updates = tuple(WatchedUpdate(e.round, _copy(e.received), _seen(world.scenario.threat, e.update)) for e, _ in pairs)
    return _case(world, journal, private.taken(order[:most]), updates, client, salt=salt)


def shadows(
    observation: MembershipObservation, plan: ShadowPlan, seed: int, on_shadow: Callable[[int], None]
) -> tuple[Shadow, ...]:
    """Train the shadow models of a plan.

    Args:
        observation: whose examples and recipe are used.
        plan: how many, and on what.
        seed: the scenario's.
        on_shadow: called with the number of each, from 1, before it is trained.
    """
    n, purpose = len(observation.candidates), f"shadows {plan.count} {plan.with_candidates}"
    pool = observation.reference
    if plan.with_candidates:
        pool = Batch.joined((observation.candidates, pool))
    chosen = halves(plan.count, len(pool), seeding.generator(seed, purpose))
    trained: list[Shadow] = []
    for number, inside in enumerate(chosen, 1):
        on_shadow(number)
        weights = observation.train_shadow(
            pool.taken(inside.nonzero().flatten()), seeding.generator(seed, purpose, number)
        )
        if plan.with_candidates:
            trained.append(Shadow(weights, inside[:n].clone(), inside[n:].clone()))
        else:
            trained.append(Shadow(weights, torch.zeros(n, dtype=torch.bool), inside))
    return tuple(trained)


def halves(count: int, examples: int, generator: torch.Generator) -> Tensor:
    """Return who trains on what, boolean, shape (count, examples): each example is in exactly half of the rows."""
    order = torch.rand((count, examples), generator=generator).argsort(dim=0)
    return order < count // 2


def _case(
    world: World,
    journal: Journal,
    members: Batch,
    updates: tuple[WatchedUpdate, ...],
    client: int | None = None,
    *,
    salt: bytes,
) -> Case:
    order = torch.randperm(len(world.data.dataset.test), generator=_generator(world, "test set"))
    outside, reference = order.tensor_split(2)
    others = world.data.dataset.test.taken(outside[: len(members)])
    both = Batch.joined((members, others))
    is_member = torch.arange(len(both)) < len(members)
    private, seed = world.data.dataset.train, world.scenario.seed
    shuffled = secret_order(len(both), private, seed, "membership order", salt=salt)
    model = world.models.new()
    model.load_state_dict(dict(journal.weights))
    last = world.scenario.federation.rounds
    weights = {
        round_: _copy(model_weights) for round_, model_weights in {**journal.models, last: journal.weights}.items()
    }
    observation = MembershipObservation(
        candidates=both.taken(shuffled),
        reference=world.data.dataset.test.taken(reference),
        model=model.eval(),
        loss=world.stack.loss(last),
        weights=tuple(sorted(weights.items())),
        updates=updates,
        train_shadow=_recipe(world, journal),
        task=world.task,
    )
    return Case(observation, is_member[shuffled], client)


def _recipe(world: World, journal: Journal) -> ShadowTraining:
    settings = world.scenario.federation
    is_fedsgd = settings.algorithm == "fedsgd"
    uses = count_training(world, journal.rounds)
    return ShadowTraining(
        model=world.models.new(),
        start=_copy(world.models.first_weights),
        optimizer=world.stack.server_optimizer if is_fedsgd else world.stack.optimizer,
        loss=world.stack.loss(world.scenario.federation.rounds),
        batch_size=max(1, round(settings.batch_size * world.facts.expected_participants)),
        passes=int(uses.sum()) / max(1, int((uses > 0).sum())),
        task=world.task,
    )


def _seen(threat: Threat, update: Update) -> Update:
    """Return a copy of what the server sees of an update."""
    shared = {name for pattern in threat.shares for name in fnmatch.filter(update.tensors, pattern)}
    return replace(
        update,
        tensors=_copy({name: tensor for name, tensor in update.tensors.items() if name in shared}),
        buffers=_copy(update.buffers),
        examples=update.examples if "batch-size" in threat.knows else 0,
    )


def _check_enough(
    wanted: int, available: int, where: str, instead: str = "choose a larger data set or test_fraction"
) -> None:
    if available < wanted:
        raise ScenarioError(
            f"membership.candidates is {wanted}, but {where} holds only {available}. Set membership.candidates to "
            f"at most {available}, or {instead}."
        )


def _generator(world: World, purpose: str) -> torch.Generator:
    return seeding.generator(world.scenario.seed, f"membership {purpose}")


def _copy(weights: Tensors) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
