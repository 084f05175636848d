"""Small numbers that mean the same wherever they stand."""

from __future__ import annotations

TINY = 1e-30
"""The least divisor: far below any norm that double precision leaves of real gradients, and a normal number of single
precision, so that 0 / 0 becomes 0 and nothing else changes."""

MATCHES = 1e-5
"""The largest 1 - cosine of a gradient that is explained: rounding of single precision stays below, one wrong label or
mask does not."""

SURELY_KEPT = 1e-3
"""Entry of a unit's output gradient, in units of its row's norm, that no rounding of a factorisation comes near: the
unit was neither dropped nor silent."""
