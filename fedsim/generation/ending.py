"""Stopping criteria of a text: stop token, maximum number of new tokens, or end of the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fedsim.core.types import Ending, Limits


class Ended(NamedTuple):
    """Tokens of a step that belong to the text, and the criterion that ended the text, or None."""

    tokens: tuple[int, ...]
    ending: Ending | None


def cut(new: Sequence[int], written: int, length: int, limits: Limits) -> Ended:
    """Return the new tokens up to the first stopping criterion; a stop token is included as the last token.

    Args:
        new: tokens of a step.
        written: number of generated tokens before the step.
        length: number of tokens of prompt and text before the step.
        limits: stopping criteria.
    """
    left = limits.max_new_tokens - written
    room = left if limits.context is None else min(left, limits.context - length)
    counted = tuple(new[:room])
    stop = next((place for place, token in enumerate(counted) if token in limits.stop_tokens), None)
    if stop is not None:
        return Ended(counted[: stop + 1], "stop")
    if len(counted) < room:
        return Ended(counted, None)
    return Ended(counted, "length" if room == left else "context")
