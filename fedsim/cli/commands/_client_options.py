"""Options of the commands that read a user's own client: granted knowledge, and memory for the user's code."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from fedsim.core.errors import FedsimError, did_you_mean

if TYPE_CHECKING:
    from fedsim.core.types import Knowledge

_GIB = 1 << 30


def parse_knowledge(text: str) -> tuple[Knowledge, ...]:
    """Return the granted knowledge of --knows, separated by commas.

    Raises:
        FedsimError: a word names no knowledge; the message gives the nearest name.
    """
    from fedsim.core.grants import GRANTS

    words = tuple(part.strip() for part in text.split(",") if part.strip())
    for word in words:
        if word not in GRANTS:
            raise FedsimError(f"--knows: there is no knowledge '{word}'.{did_you_mean(word, GRANTS)}")
    return cast("tuple[Knowledge, ...]", words)


def usable_memory() -> float:
    """Return three quarters of the machine's memory in GiB."""
    return 0.75 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
