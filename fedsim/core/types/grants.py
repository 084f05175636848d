"""What a threat model may grant an attacker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Knowledge = Literal[
    "labels",
    "masks",
    "batch-size",
    "dropout-rates",
    "input-statistics",
    "defenses",
    "components",
    "draws",
    "given",
    "earlier-rounds",
]


Server = Literal["honest-but-curious", "malicious"]  # whether the server also changes the model that it hands out


View = Literal["single-update", "sum"]  # what the server sees of a round: each client's update, or only their mean


@dataclass(frozen=True)
class Grants:
    """What a scenario grants to one method.

    Attributes:
        knows: what the attacker knows, with what this method knows beyond the threat model.
        sees: what the server sees in a round.
        may_craft: whether the server may change the model that clients receive.
        masks_updates: whether secure aggregation hides single updates from the server.
        is_attacked: whether attacks look at what the server sees.
    """

    knows: frozenset[Knowledge]
    sees: View
    may_craft: bool
    masks_updates: bool
    is_attacked: bool
