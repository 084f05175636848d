"""Whole curves of delta beside those of a second library, and where there is none."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant

from fedsim.privacy.accounting import Spent, epsilon
from fedsim.privacy.privacy_loss import delta_bounds

EPSILONS = np.array([0.0, 0.25, 1.0, 2.0, 5.0])


def second_opinion(spent: list[Spent]) -> np.ndarray:
    """Return what Google's accountant says of both neighbours, rounded up."""
    accountant = PLDAccountant()
    for part in spent:
        noisy = dp_accounting.GaussianDpEvent(part.noise_multiplier)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(part.sampling_rate, noisy), part.steps)
    return np.array([accountant.get_delta(float(epsilon)) for epsilon in EPSILONS])


@pytest.mark.parametrize(
    "spent",
    [
        [Spent(1.0, 0.1, 50)],
        pytest.param([Spent(0.7, 0.02, 100)], marks=pytest.mark.slow),
        pytest.param([Spent(2.0, 0.5, 10)], marks=pytest.mark.slow),
        pytest.param([Spent(1.0, 0.01, 1000)], marks=pytest.mark.slow),
        pytest.param([Spent(1.0, 0.2, 1)], marks=pytest.mark.slow),
        pytest.param([Spent(1.0, 0.1, 20), Spent(2.0, 0.05, 30)], marks=pytest.mark.slow),
    ],
)
def test_a_second_library_agrees_and_finds_no_more(spent: list[Spent]) -> None:
    """Delta is that at an epsilon smaller by the stated error, about 0.01: a tenth more where it falls fast."""
    bounds, other = delta_bounds(spent, EPSILONS), second_opinion(spent)
    assert (bounds >= other * (1 - 1e-3)).all()  # that library rounds up by its grid of 1e-4
    assert (bounds <= 1.1 * other + 2e-10).all()


def test_at_its_own_epsilon_a_curve_is_at_delta() -> None:
    spent = [Spent(1.0, 0.1, 50)]
    stated = epsilon(spent, 1e-5).value
    bounds = delta_bounds(spent, np.array([stated]))
    assert bounds[0] == pytest.approx(1e-5, rel=0.1)  # both have an error of eps


def test_a_loss_that_is_too_large_for_a_grid_bounds_nothing() -> None:
    assert delta_bounds([Spent(0.05, 0.5, 10)], EPSILONS) is None
