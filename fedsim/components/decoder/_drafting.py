"""State and limits of speculative decoding: prompt lengths, remaining length, and tokens up to a stop token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.core.hooks import GenerationContext, TextState


@dataclass(frozen=True)
class DraftedTexts(TextState):
    """Texts that are continued by draft tokens.

    Attributes:
        begins: prompt length of each row.
    """

    begins: tuple[int, ...]

    def room(self, row: int, context: GenerationContext, limit: int) -> int:
        """Return the maximum number of draft tokens for a row, at most `limit`; the step generates one more token.

        The draft must fit into the model's context and the length limit.
        """
        limits, length = context.limits, len(self.tokens[row])
        if limits is None:
            return limit
        left = limits.max_new_tokens - (length - self.begins[row])
        left = left if limits.context is None else min(left, limits.context - length)
        return max(0, min(limit, left - 1))


def count_text_tokens(new: Sequence[int], context: GenerationContext) -> int:
    """Return how many of a step's tokens belong to the text, which ends with its first stop token."""
    stops = context.limits.stop_tokens if context.limits is not None else frozenset[int]()
    return next((1 + place for place, token in enumerate(new) if token in stops), len(new))
