"""The odds of a prefix, and its lengths."""

import math

import pytest

from fedsim.components.core.feature_prefix import prefix_odds


@pytest.mark.parametrize(("channels", "eta"), [(12, 2.0), (512, 10.0), (512, 100.0)])
def test_the_odds_sum_to_one_and_fall_as_a_bell_without_a_half_in_the_exponent(channels: int, eta: float) -> None:
    odds = prefix_odds(channels, eta)
    assert math.fsum(odds) == pytest.approx(1.0, abs=1e-12)
    for k in range(1, min(channels, 30)):
        assert odds[k - 1] / odds[k] == pytest.approx(math.exp((2 * k + 1) / eta**2), rel=1e-9)


def test_the_top_of_the_bell_moves_with_mu_and_a_narrow_bell_does_not_vanish() -> None:
    odds = prefix_odds(20, 3.0, 8.0)
    assert max(range(20), key=odds.__getitem__) == 7
    assert odds[5] == pytest.approx(odds[9])
    assert prefix_odds(20, 1e-3) == (1.0, *[0.0] * 19)
