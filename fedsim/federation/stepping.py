"""The server's step on the global weights, and a whole federation as a function, without messages or engine."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from fedsim.core.types import Contribution, Tensors
from fedsim.federation.client import local_training
from fedsim.scenario.world import World


def apply_server_step(
    world: World, weights: Tensors, combined: Tensor, state: dict[str, Tensor], round_: int
) -> Tensors:
    """Return the weights after the server's optimizer step along the aggregate, with buffers that components set.

    Args:
        world: the scenario's built objects.
        weights: weights that clients received.
        combined: result of the aggregation rule, shape (P,).
        state: state of the server's optimizer; changed in place.
        round_: number of the round, from 1.
    """
    direction, buffers = world.models.layout.unflatten(combined)
    trained = {name: weights[name].clone() for name in direction}
    world.stack.server_optimizer.step(trained, direction, state)
    changed = {name: weights[name] - change for name, change in buffers.items()}
    return world.with_server_buffers({**weights, **trained, **changed}, round_)


def train_rounds(world: World, rounds: int) -> Iterator[Tensors]:
    """Yield the global weights before each round, and after the last one.

    Every client takes part in every round, without memory. The weights equal the local engine's bit by bit.
    """
    rule, state = world.stack.new_aggregator(), dict[str, Tensor]()
    weights = world.models.first_weights
    yield weights
    for round_ in range(1, rounds + 1):
        combined = rule.combine(_contributions(world, round_, weights), world.server_round(round_, weights))
        weights = apply_server_step(world, weights, combined, state, round_)
        yield weights


def _contributions(world: World, round_: int, weights: Tensors) -> Iterator[Contribution]:
    for client in range(world.scenario.federation.clients):
        update, _ = local_training(world, weights, round_, client)
        yield Contribution(client, world.models.layout.flat(update.tensors, update.buffers), update.examples)
