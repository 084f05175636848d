"""Small numbers that mean the same in every attack."""

from __future__ import annotations

TINY = 1e-30
"""The least divisor. It is far below the norm of any real gradient and still a normal number of single precision, so
0 / 0 becomes 0 and nothing else changes."""

LEAST = 1e-300
"""The same of double precision: its smallest normal number is a hundred million times less."""

EXACT = 1e-5
"""Share of a norm, or of the largest singular value, that counts as nothing: rounding of single precision leaves about
1e-7, and what a further example adds to an exact gradient is more."""

EXACT_TEXT = 1e-6
"""1 - cosine of a gradient of tokens, computed as the client computed it, that only the client's tokens reach."""

TWO_WAYS = 1e-9
"""Relative difference of numbers that double precision computed in two ways."""

MATCHES = 1e-5
"""The largest 1 - cosine at which a guess explains a gradient: rounding of single precision stays below, one wrong
label or mask does not."""

SURELY_KEPT = 1e-3
"""The least entry of a unit's output gradient, relative to its row's norm, that shows a unit to be neither dropped nor
inactive: rounding errors of a factorisation are far smaller."""

SINGLE = 3e-7
"""Relative distance of features: those that a gradient in single precision tells are no closer to the truth."""
