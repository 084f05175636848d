"""Texts behind which tokens are drafted: where each begins, how many more can count, and how many do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.core.hooks import GenerationContext, Writing


@dataclass(frozen=True)
class DraftedTexts(Writing):
    """Texts behind which tokens are drafted, and where each begins.

    Attributes:
        begins: of each row, the tokens of its prompt.
    """

    begins: tuple[int, ...]

    def room(self, row: int, context: GenerationContext, most: int) -> int:
        """Return how many tokens, at most so many, can be drafted behind a row: one more is written behind them.

        A draft goes no further than the model can read, and than the text may go.
        """
        limits, length = context.limits, len(self.tokens[row])
        if limits is None:
            return most
        left = limits.max_new_tokens - (length - self.begins[row])
        left = left if limits.context is None else min(left, limits.context - length)
        return max(0, min(most, left - 1))


def in_text(new: Sequence[int], context: GenerationContext) -> int:
    """Return how many of a step's tokens stand in the text: a stop token ends it, and is its last one."""
    stops = context.limits.stop_tokens if context.limits is not None else frozenset[int]()
    return next((1 + place for place, token in enumerate(new) if token in stops), len(new))
