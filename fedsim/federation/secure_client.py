"""The client's side of secure aggregation: what it adds to the sum, and how it answers the stages of the protocol.

What a client keeps between the stages of a round lives in Flower's `Context.state`, so the stages may be answered by
different processes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, cast, get_args

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, Refused, ScenarioError
from fedsim.federation.participation import Loss
from fedsim.federation.server import TYPE, UPDATE, VECTOR
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.counting import check_modulus
from fedsim.privacy.secure_aggregation.messages import (
    ConfigValue,
    ForwardedShares,
    MaskedCounts,
    Memory,
    NeighbourKeys,
    Silent,
    UnmaskRequest,
)
from fedsim.privacy.secure_aggregation.per_element import Disclosed, with_contributions
from fedsim.privacy.secure_aggregation.per_element_protocol import ConcealingClient
from fedsim.privacy.secure_aggregation.protocol import MaskingClient
from fedsim.privacy.secure_aggregation.quantisation import (
    NotFinite,
    check_total_weight,
    narrowest,
    weighted_levels,
    weighted_mean,
)
from fedsim.scenario.world import World

Stage = Literal["advertise", "share", "reveal", "open", "supply"]
STAGES: tuple[Stage, ...] = get_args(Stage)  # the upload is the reply to a train message
PROTOCOL, ROUND = "protocol", "config"
NOT_FINITE = Loss("not finite", "the update is not finite")
_STATE = "secure-aggregation"
_LARGEST_LOSS = 64.0
_SEVERAL = 2  # examples, to see whether a rule counts them


def summand(world: World, vector: Tensor, examples: int, loss: float, round_: int, client: int) -> Tensor | None:
    """Return what a client adds to the sum, shape (P + 2,): weighted levels of update and loss, and the weight.

    Where elements need several contributors, P entries more say to which it contributes.

    The loss is one more coordinate, scaled so that losses up to 64 fit whatever the clipping range. Masks are int64,
    and so is what they hide; the trusted party of ideal mode takes int32 where that holds the levels: it is less work.

    Args:
        world: the scenario made real, with secure aggregation.
        vector: the update, shape (P,).
        examples: number of examples behind it.
        loss: mean training loss.
        round_: from 1.
        client: its number; round and client seed the rounding.

    Returns:
        None for an update that is not finite: it would spoil the sum, and only its client can notice.
    """
    settings = secure_settings(world)
    scaled = min(loss, _LARGEST_LOSS) * settings.clipping_range / _LARGEST_LOSS
    whole = torch.cat((vector, vector.new_tensor([scaled])))
    rounding = seeding.generator(world.scenario.seed, "rounding", round_, client)
    weight = world.stack.rule.weight(examples)
    dtype = narrowest(weight, settings) if settings.mode == "ideal" else torch.int64
    try:
        levels = weighted_levels(whole, weight, settings, rounding, dtype)
    except NotFinite:
        return None
    return levels if settings.least_contributors == 1 else with_contributions(levels, vector)


def mean_of(world: World, disclosed: Disclosed) -> tuple[Tensor, int, float]:
    """Return what is told of a sum of summands: mean update (P,), float64, total weight and mean training loss.

    The mean is 0 at elements that were not told.
    """
    settings = secure_settings(world)
    result = weighted_mean(disclosed.total, settings)
    loss = float(result.mean[-1]) * _LARGEST_LOSS / settings.clipping_range
    mean = result.mean[:-1]
    return mean if disclosed.revealed is None else mean * disclosed.revealed, result.weight, loss


def examples_behind(world: World, round_: int, participants: Sequence[int], weight: int) -> int:
    """Return how many examples are behind a sum: its weight, or what was drawn where every client weighs 1."""
    if world.stack.rule.weight(_SEVERAL) == _SEVERAL:
        return weight
    return sum(len(batch) for client in participants for batch in world.data.numbers_of(round_, client))


def answered(stage: Stage, world: World, client: int, content: RecordDict, state: RecordDict) -> RecordDict:
    """Return the client's answer to one stage of the masked protocol.

    Args:
        stage: which one.
        world: the scenario made real, with secure aggregation.
        client: its number.
        content: what the server sent.
        state: Flower's state of the client; changed.

    Raises:
        Refused: asked out of turn, or for something that would endanger a client's vector.
    """
    with _refusing():
        side = _side(world, client, content, state)
        answer = _answer(stage, side, content.config_records.get(PROTOCOL, ConfigRecord()))
    state[_STATE] = as_record(side.memory)
    return RecordDict({PROTOCOL: as_record(answer)})


def upload(world: World, vector: Tensor, client: int, content: RecordDict, state: RecordDict) -> RecordDict:
    """Return a summand as it travels, as raw bytes: masked, or, in ideal mode, as it is for the trusted party.

    Args:
        world: the scenario made real, with secure aggregation.
        vector: from `summand`.
        client: its number.
        content: the train message; in masked mode it holds the shares of the neighbours.
        state: Flower's state of the client; changed in masked mode.

    Raises:
        Refused: as for `answered`.
    """
    if secure_settings(world).mode == "ideal":
        return _pack(vector)
    with _refusing():
        side = _side(world, client, content, state)
        masked = side.upload(vector, ForwardedShares.from_config(content.config_records.get(PROTOCOL, ConfigRecord())))
    state[_STATE] = as_record(side.memory)
    return _pack(masked)


def check_largest_sum(world: World) -> None:
    """Say before the first round whether the sums fit.

    Raises:
        ScenarioError: the largest total weight of a round does not fit the modulus, or masked counts do not.
    """
    scenario, settings = world.scenario, secure_settings(world)
    clients = scenario.federation.clients
    most = clients if scenario.participation.sampling == "poisson" else scenario.cohort_size
    if settings.mode == "masked" and settings.least_contributors > 1:
        _check_counts(most, settings)
    rule = world.stack.rule
    total = sum(rule.weight(examples) for examples in heapq.nlargest(most, _most_examples(world)))
    try:
        check_total_weight(total, settings)
    except FedsimError as error:
        raise ScenarioError(
            f"secure_aggregation.modulus_bits: {error} Weights are numbers of examples unless aggregation.weighted = "
            f"false; here up to {most} clients a round{_largest_batch(world)}."
        ) from error


def _check_counts(most: int, settings: SecureAggregation) -> None:
    try:
        check_modulus(most, settings.modulus_bits)
    except FedsimError as error:
        raise ScenarioError(f"secure_aggregation.{error}") from error


class Sent(Protocol):
    """A message of the protocol, or what a client remembers."""

    def to_config(self) -> dict[str, ConfigValue]:
        """Return it as a flat mapping."""
        ...


def as_record(message: Sent) -> ConfigRecord:
    """Return a message of the protocol as it travels, or a client's memory as it is kept."""
    return ConfigRecord({**message.to_config()})


def secure_settings(world: World) -> SecureAggregation:
    """Return the settings of a scenario that has secure aggregation."""
    settings = world.scenario.secure_aggregation
    assert settings is not None, "called for secure aggregation only"
    return settings


def _most_examples(world: World) -> Sequence[int]:
    """Return the largest number of examples that each client can state for an update."""
    clients, shares = world.scenario.federation.clients, world.data.shares
    if isinstance(shares, tuple):
        return [_most_examples_of(world, client) for client in range(clients)]
    return [_most_examples_of(world, 0)] * clients  # drawn on demand, all of one size


def _most_examples_of(world: World, client: int) -> int:
    """Return the same for one client.

    A Poisson batch may hold all that its client owns. A defense on single examples states the expected number, which
    is larger where a client owns less than a batch.
    """
    settings, steps, size = world.scenario.federation, world.data.steps(client), len(world.data.shares[client])
    if settings.sampling == "poisson":
        return steps * max(size, settings.batch_size)
    if settings.local_epochs is None or any(defense.overrides("on_examples") for defense in world.stack.defenses):
        return steps * settings.batch_size
    return settings.local_epochs * size


def _largest_batch(world: World) -> str:
    if world.scenario.federation.sampling != "poisson":
        return ""
    return ", each of which may draw all that it owns into every Poisson batch"


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what is wrong with the server's message into a refusal."""
    try:
        yield
    except FedsimError as error:
        raise Refused(str(error)) from error


def _answer(stage: Stage, side: MaskingClient, received: ConfigRecord) -> Sent:
    match stage:
        case "advertise":
            return side.advertise()
        case "share":
            return side.share(NeighbourKeys.from_config(received))
        case "reveal":
            return side.reveal(UnmaskRequest.from_config(received))
        case "open" if isinstance(side, ConcealingClient):
            return side.open(MaskedCounts.from_config(received))
        case "supply" if isinstance(side, ConcealingClient):
            return side.supply(Silent.from_config(received))
        case _:
            raise FedsimError(f"the server asks for '{stage}', which only sums told element by element have.")


def _side(world: World, client: int, content: RecordDict, state: RecordDict) -> MaskingClient:
    order, settings = content.config_records[ROUND], secure_settings(world)
    memory = Memory.from_config(state.config_records[_STATE]) if _STATE in state else None
    round_, cohort = cast("int", order["round"]), cast("int", order["cohort"])
    side = MaskingClient if settings.least_contributors == 1 else ConcealingClient
    return side(world.scenario.seed, round_, client, cohort, settings, memory)


def _pack(vector: Tensor) -> RecordDict:
    data = vector.contiguous().numpy()
    return RecordDict({UPDATE: ConfigRecord({VECTOR: data.tobytes(), TYPE: str(data.dtype)})})
