"""Base class of unlearning methods, and the server's estimates from them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

from fedsim.core.hooks.components import Component, Hook
from fedsim.core.types import Modality, Tensors, Truth, Update, View
from fedsim.core.types.configured import ANYTHING, ConfigT

Part = Literal["all", "rest", "forgotten"]
"""Examples of the requesting client: all, all but the examples to forget, or only these."""


class Request(Protocol):
    """A client's request to forget some of its examples, and the operations with which a federation can answer it.

    The request comes after the last round. Results are computed with the clients' own code.
    """

    @property
    def view(self) -> View:
        """The server's view of a round: `single-update`, or `sum`, i.e. only the global models."""
        ...

    @property
    def rounds(self) -> int:
        """Number of rounds before the request."""
        ...

    @property
    def watched_rounds(self) -> tuple[int, ...]:
        """Rounds whose updates the server compares, if it sees single updates."""
        ...

    @property
    def rate(self) -> float:
        """Learning rate of the server."""
        ...

    @property
    def forgotten(self) -> int:
        """Number of examples to forget."""
        ...

    def examples(self, part: Part) -> int:
        """Return the number of examples in a round's mean, if the requesting client uses only this part."""
        ...

    def weights(self, round_: int) -> Tensors:
        """Return the global weights at the start of a round: a watched round, the first, or `rounds` + 1."""
        ...

    def retrained_weights(self, round_: int) -> Tensors:
        """Return the same weights of a federation retrained from the initial weights without the examples to forget."""
        ...

    def update(self, round_: int, weights: Tensors, part: Part) -> tuple[Update, Truth]:
        """Return the requesting client's update of a round on a part of its examples, and its ground truth.

        `rest` draws new batches, dropout masks and noise.
        """
        ...


class ServerEstimate(NamedTuple):
    """The server's estimate from unlearning.

    Attributes:
        round: round of the update or model that it is derived from.
        received_weights: weights at which the gradient is taken.
        update: estimated gradient of the examples to forget.
        truth: ground truth, if the estimate is a single step of the client; None for a difference, whose masks and
            draws belong to several steps.
    """

    round: int
    received_weights: Tensors
    update: Update
    truth: Truth | None = None


class Unlearning(Component[ConfigT]):
    """Hook unlearning: removes examples from a trained federation; returns an honest-but-curious server's estimates.

    Attributes:
        is_one_step: whether the answer is a single step of the requesting client. Otherwise the server computes a
            difference: masks and draws are unknown, and global models suffice only if the server steps along the mean
            over all examples.
    """

    hook: ClassVar[Hook] = "unlearning"
    modalities: ClassVar[frozenset[Modality]] = ANYTHING
    is_one_step: ClassVar[bool] = False

    @abstractmethod
    def forget(self, request: Request) -> Sequence[ServerEstimate]:
        """Return the server's estimates (nonempty), each of another round."""
