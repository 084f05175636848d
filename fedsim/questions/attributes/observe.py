"""Build the observation of attribute inference attacks. It never contains the clients' examples.

The attacker owns the test set with its attributes. It simulates clients that hold public examples of a single value,
with the scenario's own code, defenses included, and with its own randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, NotApplicable, ScenarioError, did_you_mean, reason
from fedsim.core.types import Attribute, Dataset, Tensors, WireEntry
from fedsim.metrics.attributes import share_read
from fedsim.processes.methods import MethodRunner, require_tensor
from fedsim.questions.attributes.hooks import AttributeAttack
from fedsim.record import Interval
from fedsim.scenario.world import World
from fedsim.threat.changes import permute_labels, simulated_changes
from fedsim.threat.observe import shared_parameters
from fedsim.threat.orders import secret_order

LABEL = "label"
"""The attribute of every data set with one class label per example: a positive control."""

_FEWEST_VALUES = 2
_PERMUTATIONS = 10


def known_attributes(dataset: Dataset) -> dict[str, Attribute]:
    """Return a data set's attributes, plus the class label if each example has a named class."""
    train, test = dataset.train.labels, dataset.test.labels
    if train.dim() != 1 or train.is_floating_point() or len(dataset.class_names) != dataset.spec.classes:
        return dict(dataset.attributes)
    return {**dataset.attributes, LABEL: Attribute(dataset.class_names, train, test)}


def check(world: World, names: Sequence[str]) -> None:
    """Check before the first round that all attributes exist and have public examples, and that tensors are seen.

    Args:
        world: the scenario's built objects.
        names: attribute names, in the order of `attributes.attacks`.

    Raises:
        ScenarioError: a check failed; the message gives the reason.
    """
    dataset = world.data.dataset
    known = known_attributes(dataset)
    shared_parameters(world.models.workspace.model, world.scenario.threat.visible_parameters)
    for number, name in enumerate(names):
        place = f"attributes.attacks.{number}.attribute"
        if name not in known:
            raise ScenarioError(
                f"{place}: data '{world.scenario.data.name}' has no attribute '{name}'."
                f"{did_you_mean(name, known) if known else ' It has none.'}"
            )
        if len(_public_values(known[name])) < _FEWEST_VALUES:
            raise ScenarioError(
                f"{place}: the public examples, which are the test set, have fewer than two values of "
                f"'{name}'. Ask for another attribute, or raise data.test or data.test_fraction."
            )
    if torch.equal(dataset.train.inputs, dataset.test.inputs):
        raise ScenarioError(
            "attributes: the test set of this data set is its training set, so the attacker has no examples of its "
            "own. Choose another data set."
        )


@dataclass(frozen=True)
class Descriptions:
    """Feature vectors of the updates of a round, with the ground truth for the scorer.

    Attributes:
        public_features: by attack: features of public updates, shape (P, F).
        labels: values of the public updates, shape (P,).
        unknown: by attack: features of the clients' updates in secret order, shape (N, F).
        truth: values of the clients' updates, shape (N,).
        clients: clients of these updates, shape (N,).
        left_out: number of updates without a most frequent value.
        refusals: by attack: the reason for which it returned no features: not applicable, or an exception.
    """

    public_features: Mapping[str, Tensor]
    labels: Tensor
    unknown: Mapping[str, Tensor]
    truth: Tensor
    clients: Tensor
    left_out: int
    refusals: Mapping[str, str]


OnChange = Callable[[int, int], None]
"""Called before the update of public examples is computed, with its number from 1 and the number of updates."""


def describe_round(
    world: World,
    name: str,
    entries: Sequence[WireEntry],
    attacks: Mapping[str, MethodRunner],
    public: int,
    on_change: OnChange = lambda _number, _total: None,
    salt: bytes = b"",
) -> Descriptions:
    """Return the attacks' features of the updates of a round, and of updates of public examples.

    Args:
        world: the scenario's built objects.
        name: name of the attribute.
        entries: entries of a single round, not empty.
        attacks: attacks by title; each attack sees each update once.
        public: number of updates of public examples for each value; at most one per example.
        on_change: called before each update of public examples.
        salt: the run's salt; empty without a salt.
    """
    attribute, first = known_attributes(world.data.dataset)[name], entries[0]
    describe = _Describing(world, first, attacks)
    values = [value_of(world, entry, attribute) for entry in entries]
    judged = [number for number, value in enumerate(values) if value is not None]
    private, purpose = world.data.dataset.train, f"order of updates {name}"
    order = secret_order(len(judged), private, world.scenario.seed, purpose, first.round, salt=salt)
    judged = [judged[place] for place in order]
    unknown = [describe(entries[number].update.tensors) for number in judged]
    labels, known = list[int](), list[dict[str, Tensor]]()
    for label, change in public_changes(world, first, name, attribute, public, on_change):
        labels.append(label)
        known.append(describe(change))
    titles = [title for title in attacks if title not in describe.refusals]
    return Descriptions(
        public_features={title: torch.stack([description[title] for description in known]) for title in titles},
        labels=torch.tensor(labels),
        unknown={title: torch.stack([description[title] for description in unknown]) for title in titles if unknown},
        truth=torch.tensor([values[number] for number in judged], dtype=torch.long),
        clients=torch.tensor([entries[number].client for number in judged], dtype=torch.long),
        left_out=len(entries) - len(judged),
        refusals=describe.refusals,
    )


def value_of(world: World, entry: WireEntry, attribute: Attribute) -> int | None:
    """Return the most frequent value among the examples behind an update; None if no value or a tie."""
    numbers = torch.cat(list(world.data.numbers_of(entry.round, entry.client)))
    known = numbers[numbers < len(attribute.train)]  # planted examples have indices after the examples with attributes
    values = attribute.train[known]
    counts = values[values >= 0].bincount(minlength=2).sort(descending=True)
    return None if counts.values[0] == counts.values[1] else int(counts.indices[0])


def public_changes(
    world: World,
    entry: WireEntry,
    name: str,
    attribute: Attribute,
    public: int,
    on_change: OnChange = lambda _number, _total: None,
) -> Iterator[tuple[int, Tensors]]:
    """Yield (value, update of a simulated client with public examples of this value), cycling through the values."""
    source = seeding.generator(world.scenario.seed, f"public examples of {name}", entry.round)
    pools = {value: (attribute.test == value).nonzero().flatten() for value in _public_values(attribute)}
    size = _examples(world, entry)
    count = public
    if size == 1:  # a repeated example would add no information
        count = min(count, *map(len, pools.values()))
    held = {
        value: _sample_passes(pool, size * count, source).split(min(size, len(pool))) for value, pool in pools.items()
    }
    pairs = [(value, shares[number]) for number in range(count) for value, shares in held.items()]
    changes = simulated_changes(world, entry, [share for _, share in pairs])
    for number, (value, _) in enumerate(pairs):
        on_change(number + 1, len(pairs))
        yield value, next(changes)


@dataclass(frozen=True)
class AttributeAccuracy:
    """Accuracy of an attribute inference attack.

    Attributes:
        right: mean over the values of the share of their updates with a correctly inferred value.
        permuted_accuracy: the same after training on permuted public values: the negative control.
        chance: expected accuracy of guesses without the updates.
        values: the attribute's values.
        left_out: number of updates without a most frequent value.
        public: number of updates of public examples per round.
    """

    right: Interval
    permuted_accuracy: Interval
    chance: float
    values: tuple[str, ...]
    left_out: int
    public: int


def score(
    label: str, attribute: str, attack: MethodRunner, rounds: Sequence[Descriptions], world: World
) -> AttributeAccuracy:
    """Return the accuracy of an attack and of its negative control.

    Raises:
        NotApplicable: the attack is not applicable; with the reason.
    """
    refusal = next((round_.refusals[label] for round_ in rounds if label in round_.refusals), None)
    if refusal is not None:
        raise NotApplicable(refusal)
    judged = [round_ for round_ in rounds if len(round_.truth)]
    left_out = sum(round_.left_out for round_ in rounds)
    if not judged:
        raise NotApplicable(
            f"no watched update has examples of which most share a value of '{attribute}' ({left_out} updates)"
        )
    truth, clients = (torch.cat([getattr(round_, part) for round_ in judged]) for part in ("truth", "clients"))
    scoring, seed = world.scenario.scoring, world.scenario.seed
    shares: list[Interval] = []
    for is_control in (False, True):
        right = torch.cat([_right(attack, round_, label, seed, is_control=is_control) for round_ in judged])
        source = np.random.default_rng(seeding.derive(seed, "bootstrap"))
        shares.append(share_read(right, truth, clients, source, scoring.confidence, scoring.resamples))
    return AttributeAccuracy(
        *shares,
        chance=1 / len(truth.unique()),
        values=known_attributes(world.data.dataset)[attribute].values,
        left_out=left_out,
        public=len(judged[0].labels),
    )


def _right(attack: MethodRunner, descriptions: Descriptions, label: str, seed: int, *, is_control: bool) -> Tensor:
    """Return per update whether the inferred value is correct, (N,); for the control the share over permutations.

    A single permutation is not enough: its chance agreement with the true values is shared by all updates.
    """
    labels = [descriptions.labels]
    if is_control:
        source = seeding.generator(seed, "permuted attributes")
        labels = [permute_labels(descriptions.labels, source) for _ in range(_PERMUTATIONS)]
    right = []
    for group in labels:
        generator = seeding.generator(seed, f"attribute attack {label}")
        numbers, places = group.unique(return_inverse=True)  # values without public examples have no index
        read = _read(attack, descriptions.public_features[label], places, descriptions.unknown[label], generator)
        right.append(numbers[read.argmax(1)] == descriptions.truth)
    return torch.stack(right).double().mean(0)


def _read(attack: MethodRunner, known: Tensor, labels: Tensor, changes: Tensor, generator: torch.Generator) -> Tensor:
    """Return the probability of each value for every client update, shape (N, K)."""
    read = require_tensor(attack.call(AttributeAttack.read, known, labels, changes, generators=[generator]))
    return AttributeAttack.check_probabilities(read.detach(), labels, changes)


class _Describing:
    """Passes updates of a round to the attacks; an attack that failed once is not called again."""

    def __init__(self, world: World, entry: WireEntry, attacks: Mapping[str, MethodRunner]) -> None:
        self.refusals: dict[str, str] = {}
        self._attacks, self._round, self._seed = attacks, entry.round, world.scenario.seed
        self._shared = shared_parameters(world.models.workspace.model, world.scenario.threat.visible_parameters)
        self._sizes: dict[str, int] = {}

    def __call__(self, change: Tensors) -> dict[str, Tensor]:
        descriptions: dict[str, Tensor] = {}
        for title, attack in self._attacks.items():
            if title in self.refusals:
                continue
            seen = {name: tensor.detach().clone() for name, tensor in change.items() if name in self._shared}
            source = seeding.generator(self._seed, f"describing for {title}", self._round)
            try:
                description = require_tensor(attack.call(AttributeAttack.describe, seen, generators=[source]))
                descriptions[title] = self._check_description(title, description.detach())
            except Exception as error:  # a method may raise anything
                self.refusals[title] = reason(error)
        return descriptions

    def _check_description(self, title: str, description: Tensor) -> Tensor:
        size = self._sizes.setdefault(title, description.numel())
        if description.shape != (size,):
            raise FedsimError(
                f"a description has shape {tuple(description.shape)}, expected a vector for each update: ({size},)."
            )
        return description


def _public_values(attribute: Attribute) -> list[int]:
    return [value for value in attribute.test.unique().tolist() if value >= 0]


def _sample_passes(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return at least `count` indices of the pool in random passes: no repetition before the pool is exhausted."""
    passes = -(-count // len(pool))
    return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for _ in range(passes)])


def _examples(world: World, entry: WireEntry) -> int:
    """Return the number of examples of a simulated client: batch size times local steps, or examples per epoch."""
    settings = world.scenario.federation
    if settings.local_epochs is None:
        return settings.batch_size * settings.local_steps
    return max(1, round(entry.update.examples / settings.local_epochs))
