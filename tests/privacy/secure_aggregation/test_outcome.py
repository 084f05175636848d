"""A sum of one is refused."""

import pytest

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.ideal import ideal_aggregate
from fedsim.privacy.secure_aggregation.protocol import MaskingClient, UnmaskingServer


@pytest.mark.parametrize("cohort", [0, 1])
def test_a_sum_of_one_is_refused(cohort):
    config = SecureAggregation()
    for start in (
        lambda: UnmaskingServer(1, 1, range(cohort), config),
        lambda: MaskingClient(1, 1, 0, cohort, config),
        lambda: ideal_aggregate([], cohort, config),
    ):
        with pytest.raises(FedsimError, match="the sum over a single client is its update"):
            start()
