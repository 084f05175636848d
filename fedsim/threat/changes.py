"""Simulated client updates on public examples, for attackers that learn from such updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedsim.core.types import Tensors, WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario.world import World


def simulated_changes(world: World, entry: WireEntry, shares: Sequence[Tensor]) -> Iterator[Tensors]:
    """Yield what a client would send in the round of an entry that holds a share of the public examples.

    Args:
        world: the scenario made real.
        entry: whose round and received weights count.
        shares: numbers of public examples, one tensor a client.
    """
    first = world.scenario.federation.clients  # so that no real client's randomness is drawn again
    data = replace(
        world.data,
        dataset=replace(world.data.dataset, train=world.data.dataset.test),
        shares=(*(torch.empty(0, dtype=torch.long),) * first, *shares),
    )
    simulated = world.with_data(data)
    for number in range(len(shares)):
        update, _ = local_training(simulated, entry.received, entry.round, first + number)
        yield update.tensors


def permuted(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return the values dealt out anew, so that examples of each value get all values equally often.

    A plain permutation of a hundred values keeps about a tenth of the truth, or of its opposite, and a reader finds it.
    """
    numbers, dealt = labels.unique(), torch.empty_like(labels)
    for shift, value in enumerate(numbers.tolist()):
        members = (labels == value).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        dealt[members] = numbers[(torch.arange(len(members)) + shift) % len(numbers)]
    return dealt
