"""What secure aggregation computes, without the cryptography: a trusted party adds up and says only the sum.

With all others as neighbours the masked protocol gives the same integers, and aborts on the same uploads. With fewer
it may also abort when too many of one neighbourhood are gone.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedsim.secure_aggregation.config import SecureAggregation
from fedsim.secure_aggregation.outcome import Aggregate, check_cohort, check_survivors
from fedsim.secure_aggregation.ring import check_element, modular_sum


def ideal_aggregate(uploads: Mapping[int, Tensor], cohort: int, config: SecureAggregation) -> Aggregate:
    """Return the modular sum of the uploaded vectors and who took part.

    Args:
        uploads: int64 vectors of one length with entries in [0, 2**modulus_bits), by client.
        cohort: number of clients that were asked.
        config: holds the threshold and the modulus.

    Raises:
        Aborted: fewer uploads than the threshold.
        FedsimError: a cohort of one, or vectors that cannot be added.
    """
    check_cohort(cohort)
    check_survivors(len(uploads), cohort, config, "uploaded")
    for vector in uploads.values():
        check_element(vector, config.modulus_bits)
    participants = tuple(sorted(uploads))
    return Aggregate(modular_sum((uploads[c] for c in participants), config.modulus_bits), participants)
