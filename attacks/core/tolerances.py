"""Small numbers that mean the same in every attack."""

from __future__ import annotations

TINY = 1e-30
"""The least divisor. It is far below the norm of any real gradient and still a normal number of single precision, so
0 / 0 becomes 0 and nothing else changes."""

MATCHES = 1e-5
"""The largest 1 - cosine at which a guess explains a gradient: rounding of single precision stays below, one wrong
label or mask does not."""

SURELY_KEPT = 1e-3
"""The least entry of a unit's output gradient, relative to its row's norm, that shows a unit to be neither dropped nor
inactive: rounding errors of a factorisation are far smaller."""
