"""Randomness is an argument: every generator is derived from (seed, purpose, round, client, step).

Nothing here touches the global random state for good, so results do not depend on scheduling or on
what ran before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, purpose: str, *path: int) -> int:
    """Return a 63-bit seed for one purpose at one place of a run.

    Args:
        seed: the scenario's seed.
        purpose: what the randomness is for, for example ``"dropout"``.
        path: round, client, step or any other non-negative coordinates, in a fixed order.
    """
    label = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    sequence = np.random.SeedSequence([seed, label, *path])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: str, *path: int) -> torch.Generator:
    """Return a CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *path))


@contextmanager
def contained(seed: int) -> Generator[None]:
    """Run foreign code that draws from torch's global CPU generator reproducibly, and leave no trace.

    Weight initialisation and user modules have no generator argument; inside this block the global
    generator starts from `seed`, afterwards it is as it was.
    """
    before = torch.random.get_rng_state()
    torch.random.set_rng_state(torch.Generator().manual_seed(seed).get_state())
    try:
        yield
    finally:
        torch.random.set_rng_state(before)
