"""How a federation answers a request to forget, and what its server works out of the answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

from fedsim.core.hooks.components import Component, Hook
from fedsim.core.types import Modality, Tensors, Truth, Update, View
from fedsim.core.types.configured import ANYTHING, ConfigT

Part = Literal["all", "rest", "forgotten"]
"""Which examples of the client that asks: all, all but those to forget, or those alone."""


class Request(Protocol):
    """A client's request that some of its examples be forgotten, and what the federation can do to answer it.

    The request comes after the last round. What is computed here is computed with the clients' own code.
    """

    @property
    def sees(self) -> View:
        """What the server sees of a round: `single-update`, or `sum`, which is the global models alone."""
        ...

    @property
    def rounds(self) -> int:
        """How many rounds were trained before the request."""
        ...

    @property
    def watched(self) -> tuple[int, ...]:
        """The rounds whose updates the server compares, where it sees single updates."""
        ...

    @property
    def rate(self) -> float:
        """Step size of the server."""
        ...

    @property
    def forgotten(self) -> int:
        """How many examples are to be forgotten."""
        ...

    def examples(self, part: Part) -> int:
        """Return how many examples a round's mean is over, if of the asking client's only this part is there."""
        ...

    def weights(self, round_: int) -> Tensors:
        """Return the global weights that a round began with: of a watched round, the first, or `rounds` + 1."""
        ...

    def retrained(self, round_: int) -> Tensors:
        """Return the same of a federation that trains from the first weights, anew, without the examples."""
        ...

    def update(self, round_: int, weights: Tensors, part: Part) -> tuple[Update, Truth]:
        """Return what the asking client sends if it trains in a round on a part of its examples, and its private side.

        `rest` draws batches, dropout masks and noise anew.
        """
        ...


class Shown(NamedTuple):
    """What the server works out of an answer.

    Attributes:
        round: of the update or model that shows it.
        received: the weights at which it is taken.
        update: what is taken for the gradient of the examples to forget.
        truth: private side, where one step of the client gave it. None where it is worked out: dropout masks and other
            draws then belong to no single step.
    """

    round: int
    received: Tensors
    update: Update
    truth: Truth | None = None


class Unlearning(Component[ConfigT]):
    """Hook unlearning: makes a trained federation forget, and says what an honest but curious server sees of that.

    Attributes:
        is_one_step: whether the answer is one step of the client that asks. Else it is worked out: then masks and draws
            are unknown, and global models tell only where the server steps along the mean over all examples.
    """

    hook: ClassVar[Hook] = "unlearning"
    modalities: ClassVar[frozenset[Modality]] = ANYTHING
    is_one_step: ClassVar[bool] = False

    @abstractmethod
    def forget(self, request: Request) -> Sequence[Shown]:
        """Return what the server works out, at least one, each of another round."""
