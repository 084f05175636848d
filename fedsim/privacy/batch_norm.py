"""Arrays of batch normalisation in an update, recognised by the received names and types alone.

Names and types come from the server, so the choice never depends on the client's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

RunningStatistics = Literal["received", "noised"]
"""Running means and variances in a private reply: the server's values, or part of the clipped and noised update."""

_COUNTER = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var")


def is_running_statistic(name: str) -> bool:
    """Return whether a name is that of a running mean or variance, as PyTorch names them."""
    return name.rpartition(".")[2] in _STATISTICS


def returned_arrays(is_inexact: Mapping[str, bool], running_statistics: RunningStatistics) -> frozenset[str]:
    """Return the names of the received arrays that a private reply returns exactly as received.

    They are all integer and boolean arrays, all counters of batches, and for "received" all running statistics.

    Args:
        is_inexact: for each received array, whether its type is floating-point or complex.
        running_statistics: the policy's choice.
    """
    return frozenset(
        name
        for name, inexact in is_inexact.items()
        if not inexact
        or name.rpartition(".")[2] == _COUNTER
        or (running_statistics == "received" and is_running_statistic(name))
    )
