"""The result of secure aggregation without the cryptography: a trusted party adds up and returns only the sum.

With all others as neighbours the masked protocol gives the same integers and aborts on the same uploads. With fewer
neighbours the protocol may also abort because too many clients of a neighbourhood are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.outcome import Aggregate, check_cohort, check_survivors
from fedsim.privacy.secure_aggregation.per_element import tell
from fedsim.privacy.secure_aggregation.ring import check_element, modular_sum


def ideal_aggregate(uploads: Iterable[tuple[int, Tensor]], cohort: int, config: SecureAggregation) -> Aggregate:
    """Return the disclosed part of the modular sum of the uploaded vectors, and the participants.

    Args:
        uploads: (client, vector) of every client that uploaded, in any order; int64 vectors of equal length with
            entries in [0, 2**modulus_bits). Each is added and freed before the next is requested.
        cohort: number of clients in the cohort.
        config: holds the threshold and the modulus.

    Raises:
        Aborted: a cohort of a single client, or fewer uploads than the threshold.
        FedsimError: vectors that cannot be added.
    """
    check_cohort(cohort)
    participants: list[int] = []

    def checked() -> Iterator[Tensor]:
        for client, vector in uploads:
            check_element(vector, config.modulus_bits)
            participants.append(client)
            yield vector

    total = modular_sum(checked(), config.modulus_bits)
    check_survivors(len(participants), cohort, config, "uploaded")
    disclosed = tell(total, config.least_contributors, config.modulus_bits)
    return Aggregate(disclosed.total, tuple(sorted(participants)), disclosed.disclosed_mask)
