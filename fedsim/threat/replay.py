"""Replay of clients' rounds after the federation: the scorer's ground truth, because clients send no private data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.nets.masks import mask_not_batch_first
from fedsim.core.types import Batch, Contribution, Masks, Memory, Truth, Update, WireEntry
from fedsim.federation.client import local_training
from fedsim.federation.cohort import ROUNDING
from fedsim.federation.secure_client import mean_of, secure_settings, summand
from fedsim.metrics.cost import Cost, measure_cost
from fedsim.privacy.secure_aggregation.per_element import tell
from fedsim.privacy.secure_aggregation.ring import modular_sum
from fedsim.scenario.world import World

_ROUNDING_ENGINES = ("vectorized",)


@dataclass(frozen=True)
class ReplayedClient:
    """Replay of a client's round: its update, its ground truth and its cost."""

    client: int
    update: Update
    truth: Truth
    cost: Cost


@dataclass(frozen=True)
class Replay:
    """Replay of an observed update.

    Attributes:
        truth: ground truth of the update.
        matches: whether the replay equals the observed update: bit by bit, or up to rounding on a GPU or on an engine
            with another order of summation.
        raw_is_wire: whether no defense changed the update, bit by bit.
        costs: cost of the round for every participant.
    """

    truth: Truth
    matches: bool
    raw_is_wire: bool
    costs: tuple[Cost, ...]


def replay(world: World, entry: WireEntry) -> Replay:
    """Replay an observed update, and return its ground truth.

    A client with memory is replayed through its earlier counted rounds. For a mean, every participant is replayed, and
    the updates are combined by the server's rule, with the rounding of secure aggregation if it is used.
    """
    replayed = [repeat(world, entry, client) for client in entry.clients or (entry.client,)]
    expected = world.models.layout.flat(*world.models.layout.unflatten(_observe_vector(world, entry, replayed)))
    sent = _flat(world, entry.update)
    matches = torch.equal(sent, expected)
    if world.scenario.federation.engine in _ROUNDING_ENGINES or world.device.type != "cpu":
        matches = bool(torch.dist(sent, expected) <= ROUNDING * expected.norm())
    truth = _union(world, entry.round, replayed) if entry.clients else replayed[0].truth
    raw_is_wire = torch.equal(_flat(world, truth.raw), expected)
    return Replay(truth, matches, raw_is_wire, tuple(update.cost for update in replayed))


def check_union(world: World) -> None:
    """Check before the first round that a mean gradient equals the gradient of all participants' examples.

    Raises:
        FedsimError: a component or a layer depends on the whole batch, or a dropout mask is not batch-first.
    """
    for reader in world.stack.whole_batch_components:
        raise FedsimError(
            "attacks with threat.view = 'sum' treat the mean as the gradient over all "
            f"participants' examples, but component {reader} depends on each client's whole "
            "batch. Set threat.view = 'single-update', or remove the component or the attacks."
        )
    mixing = world.models.mixing_module
    if mixing is not None:
        raise FedsimError(
            "attacks with threat.view = 'sum' treat the mean as the gradient over all "
            f"participants' examples, but {mixing} mixes the examples of each client's batch. "
            "Use a model without batch normalisation, or leave the attacks out."
        )
    spec = world.data.dataset.spec
    model = world.models.new()
    site = mask_not_batch_first(model, spec.shape, spec.dtype, world.models.trial(model))
    if site is not None:
        raise FedsimError(
            "attacks with threat.view = 'sum' concatenate the masks of several clients, but "
            f"the masks of '{site.name}' have shape {site.shape}, not examples first. Use "
            "another model, or remove the attacks."
        )


def repeat(world: World, entry: WireEntry, client: int) -> ReplayedClient:
    """Replay the round of a client behind an observed update, after the earlier rounds that its memory depends on."""
    memory: Memory = {}
    for round_, received in entry.earlier.get(client, ()):
        local_training(world, received, round_, client, memory)
    (update, truth), cost = measure_cost(
        lambda: local_training(world, entry.received_weights, entry.round, client, memory)
    )
    return ReplayedClient(client, update, truth, cost)


def _observe_vector(world: World, entry: WireEntry, replayed: list[ReplayedClient]) -> Tensor:
    updates = {update.client: update.update for update in replayed}
    if not entry.clients:
        return _flat(world, updates[entry.client])
    if world.scenario.secure_aggregation is None:
        return _mean(world, entry.round, updates)
    summands = [
        summand(world, _flat(world, update), update.examples, update.loss, entry.round, client)
        for client, update in updates.items()
    ]
    settings = secure_settings(world)
    total = modular_sum([part for part in summands if part is not None], settings.modulus_bits)
    return mean_of(world, tell(total, settings.least_contributors, settings.modulus_bits))[0]


def _union(world: World, round_: int, replayed: list[ReplayedClient]) -> Truth:
    """Concatenate the batches and masks of several clients by step; an empty batch has no masks."""
    batches = zip_longest(*(client.truth.batches for client in replayed))
    masks = zip_longest(*(client.truth.masks for client in replayed))
    private = zip_longest(*(client.truth.original_batches for client in replayed))
    raw = {client.client: client.truth.raw for client in replayed}
    examples = sum(update.examples for update in raw.values())
    loss = sum(update.loss * update.examples for update in raw.values()) / max(examples, 1)
    mean = Update(replayed[0].truth.raw.kind, *world.models.layout.unflatten(_mean(world, round_, raw)), examples, loss)
    return Truth(
        tuple(Batch.concat([batch for batch in step if batch is not None]) for step in batches),
        tuple(_side_by_side([part for part in step if part]) for step in masks),
        mean,
        tuple(Batch.concat([batch for batch in step if batch is not None]) for step in private),
    )


def _mean(world: World, round_: int, updates: Mapping[int, Update]) -> Tensor:
    contributions = (Contribution(c, _flat(world, update), update.examples) for c, update in updates.items())
    return world.stack.new_aggregator().combine(contributions, world.server_round(round_))


def _flat(world: World, update: Update) -> Tensor:
    return world.models.layout.flat(update.tensors, update.buffers)


def _side_by_side(masks: list[Masks]) -> Masks:
    return tuple(torch.cat(site) for site in zip(*masks, strict=True))
