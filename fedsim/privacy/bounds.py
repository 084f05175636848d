"""Upper bounds on membership tests and reconstructions under a guarantee.

    membership      TPR <= e^eps FPR + delta  and  TPR <= 1 - e^-eps (1 - delta - FPR)
                    (Kairouz, Oh, Viswanath 2015, arXiv 1311.0776, theorem 2.1)
    reconstruction  P(close enough) <= e^eps kappa + delta, kappa the chance of the best guess without the update
                    (Balle, Cherubin, Hayes 2022, arXiv 2201.04845)

All bounds concern a single unit of the guarantee, such as a record; neighbours add or remove it.
"""

from __future__ import annotations

import math


def membership_ceiling(epsilon: float, delta: float, false_positive_rate: float) -> float:
    """Return the largest true positive rate in [0, 1] of any membership test at this false positive rate."""
    straight = math.exp(min(epsilon, 700.0)) * false_positive_rate + delta
    mirrored = 1.0 - math.exp(-epsilon) * (1.0 - delta - false_positive_rate)
    return min(1.0, straight, mirrored)


def reconstruction_ceiling(epsilon: float, delta: float, prior: float) -> float:
    """Return the largest probability of a reconstruction within a given error.

    Args:
        epsilon: epsilon of the guarantee.
        delta: delta of the guarantee.
        prior: probability that the best guess without the update is within that error; 1/n for n equally likely
            records and an error that separates them.
    """
    return min(1.0, math.exp(min(epsilon, 700.0)) * prior + delta)
