"""Base class of aggregation rules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from fedsim.core.grants import Grants
from fedsim.core.hooks.contexts import PublicFederation, ServerRound
from fedsim.core.types import Contribution, Mechanism
from fedsim.core.types.configured import ConfigT, ConfiguredMethod


class Aggregator(ConfiguredMethod[ConfigT]):
    """Hook aggregate: combines the updates of a round. An instance lasts for one run.

    The server passes the result to its optimizer as a gradient: a step along it is subtracted from the weights.

    Attributes:
        needs_single_updates: whether the rule needs updates of single clients, which secure aggregation hides.
        acts_without_updates: whether a round without any counted update changes the model too.
    """

    needs_single_updates: ClassVar[bool]
    acts_without_updates: ClassVar[bool] = False

    @classmethod
    def missing_grants(cls, grants: Grants) -> str | None:
        """Return an error text if the rule needs single updates that the server does not have."""
        if not cls.needs_single_updates:
            return None
        if grants.masks_updates:
            return (
                "needs the updates of single clients, and under secure aggregation the server "
                "sees only their sum. Applied to the mean, the rule would silently do nothing. "
                "Use 'mean', or remove [secure_aggregation]."
            )
        if grants.view == "sum" and grants.is_attacked:
            return (
                "does not return the mean of the updates, and attacks with threat.view = 'sum' "
                "treat the server's view as the mean gradient of all participants' examples. "
                "Use 'mean', or remove the attacks."
            )
        return None

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Return why the rule does not fit this federation or model, as the end of a sentence; None if it fits."""
        return None

    def weight(self, examples: int) -> int:
        """Return the weight of an update of `examples` examples in secure aggregation.

        The rule then gets a single contribution: the weighted mean of all updates, with the total weight as its
        examples and the first participant as its client.
        """
        return examples

    @abstractmethod
    def combine(self, contributions: Iterable[Contribution], server_round: ServerRound) -> Tensor:
        """Return the combined vector, shape (P,), with the dtype of the contributions, which must not change.

        Args:
            contributions: in the order of client numbers, at least one unless the rule `acts_without_updates`; possibly
                a single-pass iterator.
            server_round: the round.

        Raises:
            FedsimError: the rule's settings do not fit the number of contributions.
        """

    def mechanism(self, federation: PublicFederation) -> Mechanism | None:
        """Return the private mechanism of the server in each round, or None without a guarantee."""
        return None
