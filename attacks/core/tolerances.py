"""Numerical tolerances shared by all attacks."""

from __future__ import annotations

TINY = 1e-30
"""Least divisor in single precision.

It is far below the norm of any real gradient and still a normal number of single precision, so 0 / 0 becomes 0 and
nothing else changes.
"""

LEAST = 1e-300
"""Least divisor in double precision. The smallest normal number is about 2e-308."""

EXACT = 1e-5
"""Share of a norm, or of the largest singular value, that counts as zero.

Rounding of single precision is about 1e-7, and a further example adds more to an exact gradient.
"""

EXACT_TEXT = 1e-6
"""Largest 1 - cosine of the gradient of exactly recovered tokens, computed in the client's own way."""

TWO_WAYS = 1e-9
"""Largest relative difference of two double-precision computations of the same value."""

MATCHES = 1e-5
"""Largest 1 - cosine at which a guess explains a gradient.

Rounding of single precision stays below, a single wrong label or mask does not.
"""

SURELY_KEPT = 1e-3
"""Least entry of an output gradient, relative to its row's norm, of a unit that is neither dropped nor inactive.

Rounding errors of a factorisation are far smaller.
"""

SINGLE = 3e-7
"""Least relative error of features that are recovered from a gradient in single precision."""
