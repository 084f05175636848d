"""A client's private step on neighbouring batches with equal randomness: a scenario in `fedsim.privacy.coupled`."""

from __future__ import annotations

import torch

from fedsim.core.types import Batch, Tensors
from fedsim.federation.client import local_training
from fedsim.privacy.coupled import Coupled, check_step
from fedsim.questions.audit.canaries import training_on
from fedsim.record import GuaranteeRecord
from fedsim.scenario.world import World

_RECORDS = 9


def try_neighbours(world: World, guarantee: GuaranteeRecord, client: int) -> Coupled | None:
    """Compare private steps on neighbouring batches; None if a round consists of several private steps.

    After the first step the weights depend on the record, so nothing bounds the distance of later steps.

    Args:
        world: the scenario's built objects.
        guarantee: a guarantee accepted by `can_audit`.
        client: client whose first examples are the records.
    """
    if world.facts.client_mechanisms[guarantee.source].steps != 1:
        return None
    pairs = [(1, other_client) for other_client in range(world.scenario.federation.clients) if other_client != client]
    places = [(1, client), (2, client), *pairs[:1]]

    def release(batch: Batch, seed: int, step: int) -> Tensors:
        everybody = torch.ones(len(batch), dtype=torch.bool)
        training = training_on(world, batch, everybody, 1.0, seed)
        update, _ = local_training(training, world.models.first_weights, *places[step])
        figures = {"number of examples": update.examples, "loss": update.loss}
        sent = {name: torch.tensor([float(value)]).nan_to_num(-1.0) for name, value in figures.items()}
        return {**update.tensors, **update.buffers, **sent}

    records = world.data.dataset.train.select(world.data.shares[client][:_RECORDS])
    return check_step(release, records, guarantee.noise_multiplier, steps=len(places))
