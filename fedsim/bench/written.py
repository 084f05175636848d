"""Lists in ParallelBench's format: names of persons in brackets and quotes, a token per character.

Kang et al. 2025, arXiv 2510.04767. A name has several tokens, so tokens within a name depend on each other too.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from itertools import product

_FIRST, _LAST = ("Ada", "Ben", "Carla", "Dora", "Emil", "Fritz"), ("Adler", "Brandt", "Curie", "Dietz", "Euler")
NAMES = tuple(map(" ".join, product(_FIRST, _LAST)))
"""One name for each letter of the lists."""
SIGNS = string.ascii_letters + ' ,"[]'


def write_list(items: Sequence[int]) -> str:
    """Format a list of letters as a list of names."""
    return "[" + ", ".join(f'"{NAMES[item]}"' for item in items) + "]"


def read_list(text: str, *, strict: bool) -> list[int] | None:
    """Parse a list of names to letters; return None if a name is unknown.

    Args:
        text: the list is between the last opening bracket and the next closing one.
        strict: whether the format must be exact; otherwise quotes and spaces may be missing.
    """
    _, bracket, ending = text.rpartition("[")
    content, closing, _ = ending.partition("]")
    if not bracket or not closing:
        return None
    names = [name.strip(" \"'") for name in content.split(",")]
    if any(name not in NAMES for name in names):
        return None
    items = list(map(NAMES.index, names))
    return items if not strict or text == write_list(items) else None


def encode(text: str) -> list[int]:
    """Return the tokens of a text."""
    return list(map(SIGNS.index, text))


def decode(tokens: Sequence[int]) -> str:
    """Return the text of tokens."""
    return "".join(SIGNS[token] for token in tokens)
