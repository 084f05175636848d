"""Build the observation of a membership attack. It never contains the membership labels."""

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
from fedsim.core.examples import unique_examples
from fedsim.core.hooks import Optimizer, Task
from fedsim.core.types import Batch, Loss, Tensors, Truth, Update
from fedsim.federation import participation
from fedsim.federation.journal import ServerLog
from fedsim.questions.membership.types import MembershipObservation, Shadow, ShadowPlan, WatchedUpdate
from fedsim.scenario import Threat
from fedsim.scenario.world import World
from fedsim.threat.orders import secret_order
from fedsim.threat.uses import count_training


@dataclass(frozen=True)
class Case:
    """The observation of a membership attack, with the ground truth for the scorer.

    Attributes:
        observation: the attack's inputs.
        is_member: membership of each candidate, boolean, shape (N,).
        client: client whose updates are attacked; None for the model.
    """

    observation: MembershipObservation
    is_member: Tensor
    client: int | None = None

    @property
    def rounds(self) -> tuple[int, ...]:
        """Rounds of the attacked updates; empty for the model."""
        return tuple(watched.round for watched in self.observation.updates)


@dataclass(frozen=True)
class ShadowTraining:
    """Trains a shadow model similarly to the federation, centrally and without clients.

    It starts from the federation's initial weights, which the server chose, uses the same mean number of passes over
    the examples, and a batch size equal to the examples of all clients of a round: the mean of small steps on small
    batches approximates a step on one large batch. FedAvg: the clients' optimizer, with state kept throughout; FedSGD:
    the server's optimizer. Augmentations, loss terms and defenses are omitted.

    Attributes:
        model: the architecture, in training mode; not modified.
        start: initial weights.
        optimizer: optimizer of the training.
        loss: loss of the training.
        batch_size: examples per step, at most the number of examples.
        passes: total passes over the examples, possibly fractional.
        task: training task of the model.
    """

    model: nn.Module
    start: Tensors
    optimizer: Optimizer[Any]
    loss: Loss
    batch_size: int
    passes: float
    task: Task[Any]

    def __call__(self, examples: Batch, generator: torch.Generator) -> Tensors:
        """Train, and return the state dict."""
        model = copy.deepcopy(self.model).train()
        model.load_state_dict(dict(self.start))
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        state: dict[str, Tensor] = {}
        with seeding.isolate_randomness(int(torch.randint(1 << 62, (), generator=generator))):
            for chosen in self._choices(len(examples), generator):
                batch = examples.select(chosen)
                draws = self.task.named_draws(batch, generator) if self.task.draws else {}
                loss = self.loss(*self.task.answer(model, batch, draws))
                gradients = torch.autograd.grad(
                    loss, list(parameters.values()), allow_unused=True, materialize_grads=True
                )
                self.optimizer.step(parameters, dict(zip(parameters, gradients, strict=True)), state)
        return {name: tensor.detach() for name, tensor in model.state_dict().items()}

    def _choices(self, examples: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Return the indices of the examples of every step, from concatenated random passes."""
        size = min(self.batch_size, examples)
        steps = max(1, round(self.passes * examples / size))
        passes = -(-steps * size // examples)
        order = torch.cat([torch.randperm(examples, generator=generator) for _ in range(passes)])
        return order[: steps * size].split(size)


def check(world: World, wanted: int) -> None:
    """Check before the first round that there are enough candidates.

    Raises:
        ScenarioError: the test set is the training set, or the data set is too small.
    """
    dataset = world.data.dataset
    if torch.equal(dataset.train.inputs, dataset.test.inputs):
        raise ScenarioError(
            "membership: the test set of this data set is its training set, so non-members are "
            "missing. Choose another data set."
        )
    _check_enough(wanted, len(dataset.test) // 2, "half of the test set")
    _check_enough(wanted, len(dataset.train), "the training set")


def check_trained_on(world: World, wanted: int) -> None:
    """Check before the first round that clients with expected updates train on enough examples.

    Raises:
        ScenarioError: they train on fewer examples than members of the model are requested.
    """
    scenario, is_member = world.scenario, torch.zeros(len(world.data.dataset.train), dtype=torch.bool)
    for round_ in range(1, scenario.federation.rounds + 1):
        cohort = participation.cohort(scenario, round_)
        fates = participation.client_failures(scenario, round_, cohort, world.data.steps)
        for client in (client for client, fate in fates.items() if fate is None):
            for chosen in world.data.numbers_of(round_, client):
                is_member[chosen] = True
        is_member[_planted_examples(world)] = False
        if is_member.sum() >= wanted:
            return
    _check_enough(wanted, int(is_member.sum()), "what clients train on", "train longer")


def observe_model(world: World, journal: ServerLog, wanted: int, salt: bytes = b"") -> Case:
    """Return the case of an attack on the final model, with up to `wanted` members.

    Members are training examples in batches of counted updates. Planted secrets are no candidates, because they are
    repeated and unlike all test examples.

    Args:
        world: the scenario's built objects.
        journal: journal of the whole training.
        wanted: number of members, and of non-members.
        salt: the run's salt; empty without a salt.

    Raises:
        ScenarioError: fewer training examples were used than members are wanted.
    """
    uses = count_training(world, journal.rounds)
    uses[_planted_examples(world)] = 0
    members = uses.nonzero().flatten()
    _check_enough(wanted, len(members), "the training examples that updates were computed from", "train longer")
    chosen = members[torch.randperm(len(members), generator=_generator(world, "members"))][:wanted]
    return _case(world, journal, world.data.dataset.train.select(chosen), (), salt=salt)


def _planted_examples(world: World) -> list[int]:
    return [number for secret in world.data.dataset.planted_secrets for number in secret.examples]


def observe_updates(world: World, journal: ServerLog, truths: Sequence[Truth], limit: int, salt: bytes = b"") -> Case:
    """Return the case of an attack on the first watched client: members are in its batches of the watched rounds.

    Args:
        world: the scenario's built objects.
        journal: journal with one entry per watched update.
        truths: ground truth of each entry.
        limit: maximum number of members.
        salt: the run's salt; empty without a salt.

    Raises:
        ScenarioError: no update was watched, or the client trained on no example.
    """
    if not journal.entries:
        raise ScenarioError(
            "membership: no watched update counted, so the attack has no update to score. See threat.rounds."
        )
    client = journal.entries[0].client
    pairs = [(entry, truth) for entry, truth in zip(journal.entries, truths, strict=True) if entry.client == client]
    batches = [batch for _, truth in pairs for batch in truth.original_batches if len(batch)]
    if not batches:
        raise ScenarioError(f"membership: client {client} trained on no example in the watched rounds.")
    private = unique_examples(batches)
    order = torch.randperm(len(private), generator=_generator(world, "members"))
    updates = tuple(
        WatchedUpdate(e.round, _copy(e.received_weights), _visible_update(world.scenario.threat, e.update))
        for e, _ in pairs
    )
    return _case(world, journal, private.select(order[:limit]), updates, client, salt=salt)


def shadows(
    observation: MembershipObservation, plan: ShadowPlan, seed: int, on_shadow: Callable[[int], None]
) -> tuple[Shadow, ...]:
    """Train the shadow models of a plan.

    Args:
        observation: source of the examples and of the training function.
        plan: number of models, and their pool of examples.
        seed: the scenario's seed.
        on_shadow: called with the number of each model, from 1, before its training.
    """
    n, purpose = len(observation.candidates), f"shadows {plan.count} {plan.with_candidates}"
    pool = observation.reference
    if plan.with_candidates:
        pool = Batch.concat((observation.candidates, pool))
    chosen = halves(plan.count, len(pool), seeding.generator(seed, purpose))
    trained: list[Shadow] = []
    for number, membership in enumerate(chosen, 1):
        on_shadow(number)
        weights = observation.train_shadow(
            pool.select(membership.nonzero().flatten()), seeding.generator(seed, purpose, number)
        )
        if plan.with_candidates:
            trained.append(Shadow(weights, membership[:n].clone(), membership[n:].clone()))
        else:
            trained.append(Shadow(weights, torch.zeros(n, dtype=torch.bool), membership))
    return tuple(trained)


def halves(count: int, examples: int, generator: torch.Generator) -> Tensor:
    """Return training set masks, boolean, shape (count, examples): each example is in exactly half of the rows."""
    order = torch.rand((count, examples), generator=generator).argsort(dim=0)
    return order < count // 2


def _case(
    world: World,
    journal: ServerLog,
    members: Batch,
    updates: tuple[WatchedUpdate, ...],
    client: int | None = None,
    *,
    salt: bytes,
) -> Case:
    order = torch.randperm(len(world.data.dataset.test), generator=_generator(world, "test set"))
    outside_rows, reference = order.tensor_split(2)
    non_members = world.data.dataset.test.select(outside_rows[: len(members)])
    candidates = Batch.concat((members, non_members))
    is_member = torch.arange(len(candidates)) < len(members)
    private, seed = world.data.dataset.train, world.scenario.seed
    shuffled = secret_order(len(candidates), private, seed, "membership order", salt=salt)
    model = world.models.new()
    model.load_state_dict(dict(journal.weights))
    last = world.scenario.federation.rounds
    weights = {
        round_: _copy(model_weights) for round_, model_weights in {**journal.models, last: journal.weights}.items()
    }
    observation = MembershipObservation(
        candidates=candidates.select(shuffled),
        reference=world.data.dataset.test.select(reference),
        model=model.eval(),
        loss=world.stack.loss(last),
        weights=tuple(sorted(weights.items())),
        updates=updates,
        train_shadow=_recipe(world, journal),
        task=world.task,
    )
    return Case(observation, is_member[shuffled], client)


def _recipe(world: World, journal: ServerLog) -> ShadowTraining:
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


def _visible_update(threat: Threat, update: Update) -> Update:
    """Return a copy of an update as the server sees it: shared tensors, buffers, and the batch size if granted."""
    shared = {name for pattern in threat.visible_parameters for name in fnmatch.filter(update.tensors, pattern)}
    return replace(
        update,
        tensors=_copy({name: tensor for name, tensor in update.tensors.items() if name in shared}),
        buffers=_copy(update.buffers),
        examples=update.examples if "batch-size" in threat.knows else 0,
    )


def _check_enough(
    wanted: int, available: int, place: str, instead: str = "choose a larger data set or test_fraction"
) -> None:
    if available < wanted:
        raise ScenarioError(
            f"membership.candidates is {wanted}, but {place} holds only {available}. Set membership.candidates to "
            f"at most {available}, or {instead}."
        )


def _generator(world: World, purpose: str) -> torch.Generator:
    return seeding.generator(world.scenario.seed, f"membership {purpose}")


def _copy(weights: Tensors) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
