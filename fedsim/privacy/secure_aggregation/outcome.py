"""The outcome of a secure aggregation: a sum, or an abort."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation.config import SecureAggregation

_FEWEST_CLIENTS = 2


class Aborted(FedsimError):
    """Too few clients answered, so the round has no sum."""


@dataclass(frozen=True)
class Aggregate:
    """The server's complete view of a sum.

    Attributes:
        total: sum of the participants' vectors modulo 2**modulus_bits, int64.
        participants: clients that contributed a vector, ascending.
        disclosed_mask: mask of the disclosed elements of the update; None if all are disclosed.
    """

    total: Tensor
    participants: tuple[int, ...]
    disclosed_mask: Tensor | None = None


def check_cohort(cohort: int) -> None:
    """Raise Aborted for a cohort of a single client: its sum hides nothing."""
    if cohort < _FEWEST_CLIENTS:
        raise Aborted(
            f"secure aggregation needs a cohort of at least {_FEWEST_CLIENTS} clients, got "
            f"{cohort}: the sum over a single client is its update."
        )


def check_survivors(survivors: int, cohort: int, config: SecureAggregation, deed: str) -> None:
    """Raise Aborted where fewer clients than the threshold have done their `deed`."""
    needed = config.survivors_needed(cohort)
    if survivors < needed:
        raise Aborted(
            f"secure aggregation aborted: {survivors} of {cohort} clients {deed}, but at least {needed} must. "
            f"Lower the threshold ({config.threshold:g}, above 0.5) or let fewer clients drop out."
        )
