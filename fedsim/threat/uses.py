"""Number of training uses of each example."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.record import RoundRecord
from fedsim.scenario.world import World


def count_training(world: World, rounds: Sequence[RoundRecord]) -> Tensor:
    """Return each training example's number of uses in batches behind counted updates, shape (training set,).

    Args:
        world: the scenario's built objects.
        rounds: rounds of a run.
    """
    uses = torch.zeros(len(world.data.dataset.train), dtype=torch.long)
    for record in rounds:
        for client in record.participants:
            for chosen in world.data.numbers_of(record.round, client):
                uses += torch.bincount(chosen, minlength=len(uses))
    return uses
