"""The price of the best run, beside figures of another implementation, and a mechanism that reaches far into it."""

import math

import numpy as np
import pytest

from fedsim.core.errors import FedsimError
from fedsim.privacy.accounting import Spent
from fedsim.privacy.choosing import draw_number, epsilon_of_all, epsilon_of_best, mean_of, rate_of

DELTA = 1e-5


@pytest.mark.parametrize(
    ("mu", "geometric", "logarithmic", "composed"), [(0.5, 4.3151, 3.6698, 7.5113), (1.0, 8.5145, 7.4728, 17.857)]
)
def test_figures_of_dp_accounting(mu: float, geometric: float, logarithmic: float, composed: float) -> None:
    """Its orders are others, which moves a minimum over them by less than a hundredth."""
    run = [Spent(1 / mu, 1.0, 1)]
    assert epsilon_of_best(run, 10.0, DELTA) == pytest.approx(geometric, abs=0.01)
    assert epsilon_of_best(run, mean_of(0.0239, 0.0), DELTA, shape=0.0) == pytest.approx(logarithmic, abs=0.01)
    assert epsilon_of_all([run] * 10, DELTA) == pytest.approx(composed, abs=0.001)


@pytest.mark.parametrize("shape", [-0.5, 0.0, 1.0, 3.0])
def test_a_law_has_the_mean_that_was_asked_for(shape: float) -> None:
    """Its probabilities are proportional to gamma-function ratios times (1 - gamma)^k."""
    rate = rate_of(7.0, shape)
    assert mean_of(rate, shape) == pytest.approx(7.0)
    weights = [(1 - rate) ** 1]
    for k in range(1, 4000):
        weights.append(weights[-1] * (1 - rate) * (k + shape) / (k + 1))
    numbers = np.arange(1, len(weights) + 1)
    assert float((numbers * weights).sum() / np.sum(weights)) == pytest.approx(7.0, rel=1e-3)  # what the cut leaves out


@pytest.mark.parametrize("shape", [-0.5, 0.0, 1.0, 3.0])
def test_a_number_is_drawn_from_the_law(shape: float) -> None:
    """Shares of 1 and 2, and the mean, of 4,000 draws: within four standard errors."""
    source, rate = np.random.default_rng(2), rate_of(7.0, shape)
    draws = np.array([draw_number(7.0, shape, source) for _ in range(4000)])
    weights = [1.0]
    for k in range(1, 4000):
        weights.append(weights[-1] * (1 - rate) * (k + shape) / (k + 1))
    for number in (1, 2):
        share = weights[number - 1] / sum(weights)
        assert (draws == number).mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4000))
    assert draws.min() == 1
    assert draws.mean() == pytest.approx(7.0, abs=4 * draws.std() / math.sqrt(4000))


def test_more_runs_cost_more_and_never_less_than_one() -> None:
    run = [Spent(2.0, 1.0, 4)]
    alone = epsilon_of_all([run], DELTA)
    few, many = epsilon_of_best(run, 2.0, DELTA), epsilon_of_best(run, 50.0, DELTA)
    assert alone < few < many < epsilon_of_all([run] * 50, DELTA)


def test_runs_of_other_noise_are_composed() -> None:
    loud, quiet = [Spent(1.0, 1.0, 1)], [Spent(2.0, 1.0, 1)]
    assert epsilon_of_all([loud, quiet], DELTA) > epsilon_of_all([loud], DELTA)


@pytest.mark.parametrize(("mean", "shape"), [(1.0, 1.0), (0.0, 1.0), (math.inf, 1.0), (5.0, -1.0)])
def test_a_law_that_there_is_not_is_refused(mean: float, shape: float) -> None:
    with pytest.raises(FedsimError, match="expected above 1 and above -1"):
        epsilon_of_best([Spent(1.0, 1.0, 1)], mean, DELTA, shape)
