"""How well attacks read an attribute of the data behind updates."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fedsim.record.parts import Interval, Part


class AttributeRecord(Part):
    """One attack on an attribute in one arm.

    `accuracy` is the mean over the attribute's values of the share of their updates that were read right, and `chance`
    what guesses without the updates have of it. `permuted` is the accuracy of the same attack with permuted attributes
    of the public examples, on average over ten permutations: the control that must be at chance. An update counts for
    the value that most of its examples have; `left_out` are the updates that have no such value.
    """

    label: str
    name: str
    settings: dict[str, Any]
    attribute: str
    values: tuple[str, ...] = ()
    updates: int = 0
    left_out: int = 0
    public: int = Field(default=0, description="changes of public examples that the attacker computed, a round")
    accuracy: Interval | None = None
    permuted: Interval | None = None
    chance: float = 0.0
    failure: str | None = None
    seconds: float = Field(default=0.0, description="wall time; differs between runs")
