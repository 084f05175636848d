"""What ends a text: a stop token, the number of tokens asked for, or the end of the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fedsim.core.types import Ending, Limits


class Ended(NamedTuple):
    """The tokens of a step that count, and what ended the text in it, if anything did."""

    tokens: tuple[int, ...]
    ending: Ending | None


def cut(new: Sequence[int], written: int, length: int, limits: Limits) -> Ended:
    """Return the new tokens up to what ends the text first; a stop token counts, and is the last one.

    Args:
        new: tokens of a step.
        written: tokens behind the prompt before it.
        length: tokens of prompt and text before it.
        limits: of the text.
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
