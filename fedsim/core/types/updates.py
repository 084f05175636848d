"""A client's update, and its ground truth for scoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from fedsim.core.types.basics import Draws, Masks, Tensors
from fedsim.core.types.data import Batch


@dataclass(frozen=True)
class DropoutSite:
    """A call of a dropout function in a forward pass.

    Attributes:
        call: index among all dropout calls of the forward pass, from 0.
        name: module of the call, for readers.
        rate: probability p of dropping an entry; 0 if not granted.
        shape: shape of the mask, batch first.
        odds: for a mask that keeps a random prefix of the last dimension without rescaling, the probabilities of its
            lengths 1, 2, ...; `rate` is then the expected share of dropped entries. Empty for independent entries, and
            if not granted.
        per_example: whether such a mask has a separate length for each example.
    """

    call: int
    name: str
    rate: float
    shape: tuple[int, ...]
    odds: tuple[float, ...] = ()
    per_example: bool = False


@dataclass(frozen=True)
class Update:
    """A client's update.

    Attributes:
        kind: ``"gradient"`` (mean loss gradient at the received weights) or ``"delta"`` (received weights minus trained
            weights, so that both have the same sign).
        tensors: tensors by parameter name.
        buffers: change of the model's floating-point buffers (received minus new), empty for most models.
        examples: number of examples of the update.
        loss: the client's mean training loss, a side channel of the protocol.
    """

    kind: Literal["gradient", "delta"]
    tensors: Tensors
    buffers: Tensors
    examples: int
    loss: float


class Contribution(NamedTuple):
    """A client's update as input of an aggregation rule.

    Attributes:
        client: number of the client.
        vector: all tensors of the update, flattened and concatenated in one order for all clients, shape (P,),
            floating.
        examples: number of examples of the update.
    """

    client: int
    vector: Tensor
    examples: int


@dataclass(frozen=True)
class Truth:
    """Ground truth of an update: kept for scoring, never passed to an attack.

    For a mean, batches and masks are those of all participants in turn, step by step.

    Attributes:
        batches: batch of each local step, as the model got it.
        masks: dropout masks of each local step, in call order.
        raw: the update before the defenses that change uploads.
        original_batches: batch of each local step before augmentations and defenses; the target of reconstruction.
        draws: draws of components and task in each local step besides masks: a partner, a box, noise.
    """

    batches: tuple[Batch, ...]
    masks: tuple[Masks, ...]
    raw: Update
    original_batches: tuple[Batch, ...]
    draws: tuple[Draws, ...] = ()


@dataclass(frozen=True)
class WireEntry:
    """A message that the server received: a client's update as sent, or the mean of a round's updates.

    Attributes:
        client: sender of the update; for a mean, the first participant.
        received_weights: weights at which the update was computed.
        update: the update; for a mean, its number of examples is the total weight that the server learned.
        clients: all participants, ascending, for a mean; else empty.
        earlier: by client, (round, received weights) of earlier rounds in which its update counted, for clients with
            memory; else empty.
    """

    round: int
    client: int
    received_weights: Tensors
    update: Update
    clients: tuple[int, ...] = ()
    earlier: Mapping[int, tuple[tuple[int, Tensors], ...]] = field(
        default_factory=dict[int, tuple[tuple[int, Tensors], ...]]
    )
