"""Client side of secure aggregation: its summand, and its answers to the stages of the protocol.

The client's state between the stages of a round is in Flower's `Context.state`, so different processes may answer them.
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
from fedsim.core.errors import ClientRefusal, FedsimError, ScenarioError
from fedsim.federation.participation import ClientFailure
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
NOT_FINITE = ClientFailure("not finite", "the update is not finite")
_STATE = "secure-aggregation"
_LARGEST_LOSS = 64.0
_SEVERAL = 2  # examples, to test whether a rule weights by their number


def summand(world: World, vector: Tensor, examples: int, loss: float, round_: int, client: int) -> Tensor | None:
    """Return a client's summand, shape (P + 2,): weighted integer levels of update and loss, and the weight.

    With a minimum number of contributors per element, P further entries mark the elements to which the client
    contributes. The loss is scaled so that losses up to 64 fit into any clipping range. Masks, and thus masked
    summands, are int64; in ideal mode summands are int32 if the levels fit, which is faster.

    Args:
        world: world of a scenario with secure aggregation.
        vector: the update, shape (P,).
        examples: number of examples of the update.
        loss: mean training loss.
        round_: round number from 1.
        client: client number; round and client seed the rounding.

    Returns:
        None for an update that is not finite: it would spoil the sum, and only its client can detect it.
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
    """Decode the aggregate into mean update (P,), float64, total weight and mean training loss.

    The mean is 0 at withheld elements.
    """
    settings = secure_settings(world)
    result = weighted_mean(disclosed.total, settings)
    loss = float(result.mean[-1]) * _LARGEST_LOSS / settings.clipping_range
    mean = result.mean[:-1]
    return mean if disclosed.disclosed_mask is None else mean * disclosed.disclosed_mask, result.weight, loss


def examples_behind(world: World, round_: int, participants: Sequence[int], weight: int) -> int:
    """Return a sum's number of examples: its weight, or the sampled number if every client has weight 1."""
    if world.stack.rule.weight(_SEVERAL) == _SEVERAL:
        return weight
    return sum(len(batch) for client in participants for batch in world.data.numbers_of(round_, client))


def answer_stage(stage: Stage, world: World, client: int, content: RecordDict, state: RecordDict) -> RecordDict:
    """Return the client's answer to a stage of the masked protocol.

    Args:
        stage: the stage.
        world: world of a scenario with secure aggregation.
        client: client number.
        content: content of the server's message.
        state: Flower's state of the client; changed.

    Raises:
        ClientRefusal: the request is out of order, or would endanger a client's vector.
    """
    with _refuse_on_error():
        side = _side(world, client, content, state)
        answer = _answer(stage, side, content.config_records.get(PROTOCOL, ConfigRecord()))
    state[_STATE] = as_record(side.memory)
    return RecordDict({PROTOCOL: as_record(answer)})


def upload(world: World, vector: Tensor, client: int, content: RecordDict, state: RecordDict) -> RecordDict:
    """Return a summand as payload of raw bytes: masked, or in ideal mode in clear for the trusted party.

    Args:
        world: world of a scenario with secure aggregation.
        vector: summand from `summand`.
        client: client number.
        content: the train message; in masked mode with the neighbours' shares.
        state: Flower's state of the client; changed in masked mode.

    Raises:
        ClientRefusal: as for `answer_stage`.
    """
    if secure_settings(world).mode == "ideal":
        return _pack(vector)
    with _refuse_on_error():
        side = _side(world, client, content, state)
        masked = side.upload(vector, ForwardedShares.from_config(content.config_records.get(PROTOCOL, ConfigRecord())))
    state[_STATE] = as_record(side.memory)
    return _pack(masked)


def check_largest_sum(world: World) -> None:
    """Check before the first round that the sums fit.

    Raises:
        ScenarioError: the largest total weight of a round does not fit the modulus, or masked counts do not.
    """
    scenario, settings = world.scenario, secure_settings(world)
    clients = scenario.federation.clients
    limit = clients if scenario.participation.sampling == "poisson" else scenario.cohort_size
    if settings.mode == "masked" and settings.least_contributors > 1:
        _check_counts(limit, settings)
    rule = world.stack.rule
    total = sum(rule.weight(examples) for examples in heapq.nlargest(limit, _most_examples(world)))
    try:
        check_total_weight(total, settings)
    except FedsimError as error:
        raise ScenarioError(
            f"secure_aggregation.modulus_bits: {error} Weights are numbers of examples unless aggregation.weighted = "
            f"false; here up to {limit} clients a round{_largest_batch(world)}."
        ) from error


def _check_counts(limit: int, settings: SecureAggregation) -> None:
    try:
        check_modulus(limit, settings.modulus_bits)
    except FedsimError as error:
        raise ScenarioError(f"secure_aggregation.{error}") from error


class Sent(Protocol):
    """A message of the protocol, or a client's protocol state."""

    def to_config(self) -> dict[str, ConfigValue]:
        """Return the fields as a flat mapping."""
        ...


def as_record(message: Sent) -> ConfigRecord:
    """Serialise a message of the protocol, or a client's protocol state."""
    return ConfigRecord({**message.to_config()})


def secure_settings(world: World) -> SecureAggregation:
    """Return the secure aggregation settings of a scenario, which must exist."""
    settings = world.scenario.secure_aggregation
    assert settings is not None, "called for secure aggregation only"
    return settings


def _most_examples(world: World) -> Sequence[int]:
    """Return each client's maximum number of examples in an update."""
    clients, shares = world.scenario.federation.clients, world.data.shares
    if isinstance(shares, tuple):
        return [_most_examples_of(world, client) for client in range(clients)]
    return [_most_examples_of(world, 0)] * clients  # drawn on demand, all of equal size


def _most_examples_of(world: World, client: int) -> int:
    """Return a client's maximum number of examples in an update.

    A Poisson batch may contain all of the client's examples. A per-example defense states the expected number, which is
    larger if a client owns less than a batch.
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
def _refuse_on_error() -> Iterator[None]:
    """Convert errors in the server's message into a refusal."""
    try:
        yield
    except FedsimError as error:
        raise ClientRefusal(str(error)) from error


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
            raise FedsimError(f"the server requests '{stage}', which only per-element sums have.")


def _side(world: World, client: int, content: RecordDict, state: RecordDict) -> MaskingClient:
    order, settings = content.config_records[ROUND], secure_settings(world)
    memory = Memory.from_config(state.config_records[_STATE]) if _STATE in state else None
    round_, cohort = cast("int", order["round"]), cast("int", order["cohort"])
    side = MaskingClient if settings.least_contributors == 1 else ConcealingClient
    return side(world.scenario.seed, round_, client, cohort, settings, memory)


def _pack(vector: Tensor) -> RecordDict:
    data = vector.contiguous().numpy()
    return RecordDict({UPDATE: ConfigRecord({VECTOR: data.tobytes(), TYPE: str(data.dtype)})})
