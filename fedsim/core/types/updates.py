"""What a client sends, and what only the scorer knows about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from fedsim.core.types.basics import Draws, Masks, Tensors
from fedsim.core.types.data import Batch


@dataclass(frozen=True)
class DropoutSite:
    """One call of a dropout function in a forward pass.

    Attributes:
        call: position among all dropout calls of the forward pass, from 0.
        name: the module it happened in, for people.
        rate: probability p of dropping an entry; 0 when the observer was not told.
        shape: shape of the mask, batch first.
        odds: of a mask that keeps a random prefix of the last dimension, of one length and not rescaled, the
            probabilities of its lengths 1, 2, ...; `rate` is then the expected share of dropped entries. Empty
            for independent entries, and when the observer was not told.
        per_example: whether such a mask has a length of its own for every example.
    """

    call: int
    name: str
    rate: float
    shape: tuple[int, ...]
    odds: tuple[float, ...] = ()
    per_example: bool = False


@dataclass(frozen=True)
class Update:
    """What a client sends.

    Attributes:
        kind: ``"gradient"`` (mean loss gradient at the received weights) or ``"delta"`` (received
            weights minus trained weights, so that both point the same way).
        tensors: parameter name to tensor.
        buffers: change of the model's floating-point buffers (received minus new), empty for most models.
        examples: number of examples behind the update.
        loss: the client's mean training loss, a side channel of the wire.
    """

    kind: Literal["gradient", "delta"]
    tensors: Tensors
    buffers: Tensors
    examples: int
    loss: float


class Contribution(NamedTuple):
    """One client's update as an aggregator gets it.

    Attributes:
        client: number of the client.
        vector: every tensor of the update, flattened and joined in one order for all clients, shape (P,), floating.
        examples: number of examples behind the update.
    """

    client: int
    vector: Tensor
    examples: int


@dataclass(frozen=True)
class Truth:
    """The private side of an update: kept for scoring, never shown to an attack.

    Of a mean, batches and masks are those of all participants one after the other, step by step.

    Attributes:
        batches: the batch of every local step, as the model saw it.
        masks: the dropout masks of every local step, in call order.
        raw: the update before the defenses that change uploads.
        private: the batch of every local step as it was drawn, before augmentations and defenses; this is what an
            attacker is after.
        draws: what the components and the task of every local step drew beside masks: a partner, a box, noise.
    """

    batches: tuple[Batch, ...]
    masks: tuple[Masks, ...]
    raw: Update
    private: tuple[Batch, ...]
    draws: tuple[Draws, ...] = ()


@dataclass(frozen=True)
class WireEntry:
    """What the server saw at once: one client's update exactly as it arrived, or the mean of a round's updates.

    Attributes:
        client: whose update it is; of a mean, the first participant.
        received: the weights it answers.
        update: of a mean, its examples are the total weight that the server learned.
        clients: all participants, ascending, when it is a mean; empty otherwise.
        earlier: by client, (round, received weights) of the rounds before in which an update of it counted, for
            clients that remember; empty otherwise.
    """

    round: int
    client: int
    received: Tensors
    update: Update
    clients: tuple[int, ...] = ()
    earlier: Mapping[int, tuple[tuple[int, Tensors], ...]] = field(
        default_factory=dict[int, tuple[tuple[int, Tensors], ...]]
    )
