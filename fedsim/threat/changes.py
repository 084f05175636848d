"""Simulated client updates on public examples, the training data of attacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedsim.core.types import Tensors, WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario.world import World


def simulated_changes(world: World, entry: WireEntry, shares: Sequence[Tensor]) -> Iterator[Tensors]:
    """Yield the updates of simulated clients with public examples, in the round of an entry.

    Args:
        world: the scenario's built objects.
        entry: source of the round and the received weights.
        shares: indices of public examples, one tensor per simulated client.
    """
    first = world.scenario.federation.clients  # new client numbers, so that no real client's random draws are repeated
    data = replace(
        world.data,
        dataset=replace(world.data.dataset, train=world.data.dataset.test),
        shares=(*(torch.empty(0, dtype=torch.long),) * first, *shares),
    )
    simulated = world.with_data(data)
    for number in range(len(shares)):
        update, _ = local_training(simulated, entry.received_weights, entry.round, first + number)
        yield update.tensors


def permute_labels(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return labels permuted so that the examples of each value get all values equally often.

    A plain permutation of a hundred labels correlates with the true labels, or with their inverse, by about a tenth,
    which an attack would exploit.
    """
    numbers, dealt = labels.unique(), torch.empty_like(labels)
    for shift, value in enumerate(numbers.tolist()):
        members = (labels == value).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        dealt[members] = numbers[(torch.arange(len(members)) + shift) % len(numbers)]
    return dealt
