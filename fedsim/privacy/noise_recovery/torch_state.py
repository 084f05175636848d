"""The layout of the state of torch's CPU generator: a head, 624 words of 64 bits, and a value that is kept."""

from __future__ import annotations

import os

import numpy as np
import torch

from fedsim.privacy.noise_recovery.mersenne import WORDS, State

_LEFT, _NEXT, _STATE = slice(8, 12), slice(16, 24), slice(24, 24 + 8 * WORDS)


def generator_from(state: State, holds_value: bool = False) -> torch.Generator:
    """Return a torch generator that continues from a state of MT19937.

    Args:
        state: (624,).
        holds_value: whether it caches a value for draws of fewer than 16 values; the value itself is arbitrary.
    """
    generator = torch.Generator().manual_seed(0)
    if holds_value:
        torch.empty((), dtype=torch.float64).normal_(generator=generator)
    layout = generator.get_state()
    layout[_LEFT] = torch.tensor(
        [1, 0, 0, 0], dtype=torch.uint8
    )  # a single output is left: the next call makes 624 new words
    layout[_NEXT] = 0
    layout[_STATE] = torch.from_numpy(state.astype(np.uint64).view(np.uint8).copy())
    generator.set_state(layout)
    return generator


def fresh_generator() -> torch.Generator:
    """Return a torch generator with a state from the operating system: a torch seed has 32 effective bits only.

    Its state can be recovered from some 2,000 draws, so it must not generate protective noise.
    """
    return generator_from(np.frombuffer(os.urandom(4 * WORDS), np.uint32))


def state_of(generator: torch.Generator) -> State:
    """Return the 624 words of a generator of which nothing has been drawn since it was seeded."""
    return generator.get_state()[_STATE].numpy().view(np.uint64).astype(np.uint32)
