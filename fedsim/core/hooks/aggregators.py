"""Rules that make one update of many."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from fedsim.core.hooks.contexts import PublicFederation, ServerRound
from fedsim.core.types import Contribution, Mechanism
from fedsim.core.types.configured import ConfigT, Configured
from fedsim.core.types.grants import Grants


class Aggregator(Configured[ConfigT]):
    """Hook aggregate: combines the updates of a round. An instance lives for one run.

    The server hands the result to its optimizer in place of a gradient, which subtracts a step along it from the
    weights.

    Attributes:
        needs_single_updates: whether the rule looks at the updates of single clients, which secure aggregation
            hides from the server.
        acts_without_updates: whether a round in which no update counted changes the model too.
    """

    needs_single_updates: ClassVar[bool]
    acts_without_updates: ClassVar[bool] = False

    @classmethod
    def needs_more(cls, grants: Grants) -> str | None:
        """Say whether it needs single updates that the server does not have."""
        if not cls.needs_single_updates:
            return None
        if grants.masks_updates:
            return (
                "looks at the updates of single clients, and behind secure aggregation the server has none: it sees "
                "their sum. Given one mean in place of all updates, the rule would return it, and nobody would notice "
                "that it does nothing any more. Use 'mean', or leave out secure_aggregation."
            )
        if grants.sees == "sum" and grants.is_attacked:
            return (
                "gives no mean of the updates, and attacks with threat.sees = 'sum' take what the server sees for the "
                "mean gradient of all participants' examples. Use 'mean', or leave the attacks out."
            )
        return None

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Return why it does not fit this federation or model, as the end of a sentence, or None when it does."""
        return None

    def weight(self, examples: int) -> int:
        """Return what an update of so many examples counts in the sum behind secure aggregation.

        There the rule gets one contribution: the mean of all updates, with their total weight as its examples, and
        the first participant as its client.
        """
        return examples

    @abstractmethod
    def combine(self, contributions: Iterable[Contribution], here: ServerRound) -> Tensor:
        """Return one vector, shape (P,), of the contributions' dtype. Their vectors stay as they are.

        Args:
            contributions: at least one unless the rule `acts_without_updates`, in the order of client numbers; may be
                readable only once.
            here: the round.

        Raises:
            FedsimError: the rule's settings do not fit the number of contributions.
        """

    def mechanism(self, federation: PublicFederation) -> Mechanism | None:
        """Return the private mechanism that the server runs in each round, or None when there is no guarantee."""
        return None
