"""From the wire to attackers who ask for an attribute: the only door. What clients' examples are stays on this side.

The attacker owns the test set with its attributes, and computes what a client would send that holds so many public
examples of one value. It simulates the client with the scenario's own code, defenses included, and with randomness of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, NotApplicable, ScenarioError, nearest, reason
from fedsim.core.types import Attribute, Dataset, Tensors, WireEntry
from fedsim.metrics.attributes import share_read
from fedsim.processes.methods import AtWork, tensor_of
from fedsim.questions.attributes.hooks import AttributeAttack
from fedsim.record import Interval
from fedsim.scenario.world import World
from fedsim.threat.changes import permuted, simulated_changes
from fedsim.threat.observe import shared
from fedsim.threat.orders import secret_order

LABEL = "label"
"""The attribute that every data set with one label an example has: the control that must be read."""

_FEWEST_VALUES = 2
_PERMUTATIONS = 10


def known_attributes(dataset: Dataset) -> dict[str, Attribute]:
    """Return the attributes of a data set, with the label where each example has one of a few."""
    train, test = dataset.train.labels, dataset.test.labels
    if train.dim() != 1 or train.is_floating_point() or len(dataset.class_names) != dataset.spec.classes:
        return dict(dataset.attributes)
    return {**dataset.attributes, LABEL: Attribute(dataset.class_names, train, test)}


def check(world: World, names: Sequence[str]) -> None:
    """Check before the first round that every attribute is known and has public examples, and that tensors are seen.

    Args:
        world: the scenario made real.
        names: of the attributes, in the order of `attributes.attacks`.

    Raises:
        ScenarioError: it has not, with the reason.
    """
    dataset = world.data.dataset
    known = known_attributes(dataset)
    shared(world.models.workspace.model, world.scenario.threat.shares)
    for number, name in enumerate(names):
        where = f"attributes.attacks.{number}.attribute"
        if name not in known:
            raise ScenarioError(
                f"{where}: data '{world.scenario.data.name}' has no attribute '{name}'."
                f"{nearest(name, known) if known else ' It has none.'}"
            )
        if len(_public_values(known[name])) < _FEWEST_VALUES:
            raise ScenarioError(
                f"{where}: the public examples, which are the test set, have fewer than two values of "
                f"'{name}'. Ask for another attribute, or raise data.test or data.test_fraction."
            )
    if torch.equal(dataset.train.inputs, dataset.test.inputs):
        raise ScenarioError(
            "attributes: the test set of this data set is its training set, so the attacker has no examples of its "
            "own. Choose another data set."
        )


@dataclass(frozen=True)
class Descriptions:
    """What attacks make of the changes of one round, and the truth for the scorer.

    Attributes:
        known: by attack, descriptions of public changes, shape (P, F).
        labels: their values, shape (P,).
        unknown: by attack, descriptions of the clients' changes in a secret order, shape (N, F).
        truth: their values, shape (N,).
        clients: who sent them, shape (N,).
        left_out: updates whose examples have no value that most of them share.
        refusals: by attack, why it describes no change: it does not fit, or failed.
    """

    known: Mapping[str, Tensor]
    labels: Tensor
    unknown: Mapping[str, Tensor]
    truth: Tensor
    clients: Tensor
    left_out: int
    refusals: Mapping[str, str]


OnChange = Callable[[int, int], None]
"""Called before a change of public examples is computed, with its number from 1 and how many there are."""


def describe_round(
    world: World,
    name: str,
    entries: Sequence[WireEntry],
    attacks: Mapping[str, AtWork],
    public: int,
    on_change: OnChange = lambda _number, _total: None,
    salt: bytes = b"",
) -> Descriptions:
    """Return how attacks describe the updates of one round, and changes of public examples.

    Args:
        world: the scenario made real.
        name: of the attribute.
        entries: of one round, at least one.
        attacks: by their titles; all of them see each change once.
        public: changes of public examples, for each value; at most one an example.
        on_change: called before each change of public examples.
        salt: of the run; empty where it has none.
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
        known={title: torch.stack([description[title] for description in known]) for title in titles},
        labels=torch.tensor(labels),
        unknown={title: torch.stack([description[title] for description in unknown]) for title in titles if unknown},
        truth=torch.tensor([values[number] for number in judged], dtype=torch.long),
        clients=torch.tensor([entries[number].client for number in judged], dtype=torch.long),
        left_out=len(entries) - len(judged),
        refusals=describe.refusals,
    )


def value_of(world: World, entry: WireEntry, attribute: Attribute) -> int | None:
    """Return the value that most examples behind an update have, of those that have any; None where there is none."""
    numbers = torch.cat(list(world.data.numbers_of(entry.round, entry.client)))
    inside = numbers[numbers < len(attribute.train)]  # planted examples stand behind those that have attributes
    values = attribute.train[inside]
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
    """Yield (value, what a client would send that holds public examples of this value), the values in turn."""
    source = seeding.generator(world.scenario.seed, f"public examples of {name}", entry.round)
    pools = {value: (attribute.test == value).nonzero().flatten() for value in _public_values(attribute)}
    size = _examples(world, entry)
    count = public
    if size == 1:  # the same example again would teach nothing
        count = min(count, *map(len, pools.values()))
    held = {value: _in_passes(pool, size * count, source).split(min(size, len(pool))) for value, pool in pools.items()}
    pairs = [(value, shares[number]) for number in range(count) for value, shares in held.items()]
    changes = simulated_changes(world, entry, [share for _, share in pairs])
    for number, (value, _) in enumerate(pairs):
        on_change(number + 1, len(pairs))
        yield value, next(changes)


@dataclass(frozen=True)
class AttributeAccuracy:
    """How often an attack reads the value of an attribute.

    Attributes:
        right: mean over the values of the share of their updates that were read right.
        permuted: the same of the same attack, with permuted values of the public examples: the control.
        chance: what guesses without the updates reach.
        values: of the attribute.
        left_out: updates whose examples have no value that most of them share.
        public: changes of public examples that the attacker computed, a round.
    """

    right: Interval
    permuted: Interval
    chance: float
    values: tuple[str, ...]
    left_out: int
    public: int


def score(
    label: str, attribute: str, attack: AtWork, rounds: Sequence[Descriptions], world: World
) -> AttributeAccuracy:
    """Return how often an attack reads the value, and how often its control does.

    Raises:
        NotApplicable: with the reason.
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


def _right(attack: AtWork, descriptions: Descriptions, label: str, seed: int, *, is_control: bool) -> Tensor:
    """Return whether an attack reads the value of each change; of its control, in which share of the permutations.

    One permutation would not do: what it keeps by accident is the same for all changes.
    """
    labels = [descriptions.labels]
    if is_control:
        source = seeding.generator(seed, "permuted attributes")
        labels = [permuted(descriptions.labels, source) for _ in range(_PERMUTATIONS)]
    right = []
    for some in labels:
        generator = seeding.generator(seed, f"attribute attack {label}")
        numbers, places = some.unique(return_inverse=True)  # a value without public examples has no number
        read = _read(attack, descriptions.known[label], places, descriptions.unknown[label], generator)
        right.append(numbers[read.argmax(1)] == descriptions.truth)
    return torch.stack(right).double().mean(0)


def _read(attack: AtWork, known: Tensor, labels: Tensor, changes: Tensor, generator: torch.Generator) -> Tensor:
    """Return the probability of each value for every change that is asked about, shape (N, K)."""
    read = tensor_of(attack.call("read", known, labels, changes, generators=[generator]))
    return AttributeAttack.checked(read.detach(), labels, changes)


class _Describing:
    """Hands changes of one round to attacks; one that refuses or fails is not asked again."""

    def __init__(self, world: World, entry: WireEntry, attacks: Mapping[str, AtWork]) -> None:
        self.refusals: dict[str, str] = {}
        self._attacks, self._round, self._seed = attacks, entry.round, world.scenario.seed
        self._shared = shared(world.models.workspace.model, world.scenario.threat.shares)
        self._sizes: dict[str, int] = {}

    def __call__(self, change: Tensors) -> dict[str, Tensor]:
        descriptions: dict[str, Tensor] = {}
        for title, attack in self._attacks.items():
            if title in self.refusals:
                continue
            seen = {name: tensor.detach().clone() for name, tensor in change.items() if name in self._shared}
            source = seeding.generator(self._seed, f"describing for {title}", self._round)
            try:
                description = tensor_of(attack.call("describe", seen, generators=[source]))
                descriptions[title] = self._checked(title, description.detach())
            except Exception as error:  # a method may raise anything
                self.refusals[title] = reason(error)
        return descriptions

    def _checked(self, title: str, description: Tensor) -> Tensor:
        size = self._sizes.setdefault(title, description.numel())
        if description.shape != (size,):
            raise FedsimError(
                f"a description has shape {tuple(description.shape)}, expected one vector for each change: ({size},)."
            )
        return description


def _public_values(attribute: Attribute) -> list[int]:
    return [value for value in attribute.test.unique().tolist() if value >= 0]


def _in_passes(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return at least so many numbers of the pool, in random passes, so that none comes again before all have come."""
    passes = -(-count // len(pool))
    return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for _ in range(passes)])


def _examples(world: World, entry: WireEntry) -> int:
    """Return how many public examples a simulated client holds: those of its steps, or as many as were trained on."""
    settings = world.scenario.federation
    if settings.local_epochs is None:
        return settings.batch_size * settings.local_steps
    return max(1, round(entry.update.examples / settings.local_epochs))
