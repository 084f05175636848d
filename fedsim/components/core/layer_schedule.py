"""Layer schedules by generated token, shared by decoder `skipdecode` and its training component."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from fedsim.core.errors import FedsimError
from fedsim.core.types import Config


@dataclass(frozen=True)
class LayerSchedule:
    """Layers that run on each generated token.

    Attributes:
        depth: number of layers of the model, L.
        first: number of layers on the first generated token.
        last: number of layers on the last expected token and all later ones.
        warm_up: number of lowest layers that always run.
        expected_tokens: expected number of generated tokens, E.
    """

    depth: int
    first: int
    last: int
    warm_up: int
    expected_tokens: int

    def count(self, number: int) -> int:
        """Return the number of layers for generated token `number` (from 0), in exact integer arithmetic."""
        span = self.expected_tokens - 1
        if number >= span:
            return self.first if number == span == 0 else self.last
        doubled = 2 * ((span - number) * self.first + number * self.last)
        return (doubled + span) // (2 * span)

    def layers(self, number: int) -> tuple[int, ...]:
        """Return the layer indices for generated token `number`: the warm-up layers and the top layers."""
        top = self.count(number) - self.warm_up
        return (*range(self.warm_up), *range(self.depth - top, self.depth))


class ScheduleConfig(Config):
    """Settings of the schedule."""

    speed_up: float = Field(default=2.0, ge=1, description="layers of the model over layers run per token, on average")
    first: int | None = Field(
        default=None, ge=1, description="layers on the first generated token; unset: from speed_up"
    )
    last: int | None = Field(default=None, ge=1, description="layers on the last expected token; unset: from speed_up")
    warm_up: int = Field(default=1, ge=0, description="lowest layers, which run on every token")
    expected_tokens: int = Field(
        default=32, ge=1, description="tokens that a text is expected to get behind its prompt"
    )

    @model_validator(mode="after")
    def _both_ends(self) -> Self:
        if (self.first is None) != (self.last is None):
            raise ValueError("first and last belong together: set both, or neither and speed_up.")
        return self

    def schedule(self, depth: int) -> LayerSchedule:
        """Return the schedule of a model with `depth` layers.

        Raises:
            FedsimError: the counts violate warm_up < last <= first <= depth.
        """
        first, last = self.first, self.last
        if first is None or last is None:
            first, last = budgets(depth, self.speed_up, self.warm_up)
        if not self.warm_up < last <= first <= depth:
            raise FedsimError(
                f"first = {first}, last = {last}, warm_up = {self.warm_up}: expected warm_up < last <= first <= "
                f"{depth}, the layers of the model."
            )
        return LayerSchedule(depth, first, last, self.warm_up, self.expected_tokens)


def budgets(depth: int, speed_up: float, warm_up: int) -> tuple[int, int]:
    """Return the layers of the first and of the last token; their mean is at least `depth` / `speed_up`."""
    budget = math.ceil(2 * depth / speed_up)
    last = max(warm_up + 1, math.ceil(2 * depth / (3 * speed_up)), budget - depth)
    return max(last, budget - last), last
