"""Estimates over runs against brute force, closed forms and scipy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.metrics.comparison import holm, mean_over_seeds, nested_mean, nested_rate, pair, sign_flip_p
from fedsim.metrics.statistics import wilson
from fedsim.record import Interval


def source() -> np.random.Generator:
    return np.random.default_rng(7)


def test_the_two_stage_bootstrap_is_the_loop_that_its_docstring_describes() -> None:
    values = [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0, 1.0], [0.0]]
    generator, means = np.random.default_rng(0), []
    for _ in range(10_000):
        drawn: list[float] = []
        for seed in generator.integers(3, size=3):
            drawn += list(generator.choice(values[seed], size=len(values[seed])))
        means.append(np.mean(drawn))
    found = nested_mean(values, source(), resamples=20_000)
    assert found.value == pytest.approx(5 / 9)
    assert found.n == 9
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.02)


def test_seeds_that_differ_widen_the_interval() -> None:
    mixed, apart = (
        nested_mean([[0.0, 1.0] * 8] * 3, source()),
        nested_mean([[0.0] * 16, [1.0] * 16, [0.5] * 16], source()),
    )
    assert apart.high - apart.low > 2 * (mixed.high - mixed.low)


def test_one_seed_is_scipys_bootstrap_of_its_victims() -> None:
    values = list(np.random.default_rng(1).random(40))
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=source(), n_resamples=5000)
    own = nested_mean([values], source(), resamples=5000)
    assert own.low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert own.high == pytest.approx(theirs.confidence_interval.high, abs=0.01)


def test_a_rate_is_never_surer_than_wilson_and_has_a_width_at_its_ends() -> None:
    none = nested_rate([[0.0] * 16] * 3, source())
    assert (none.low, none.high) == (0.0, wilson(0, 48).high)
    apart = nested_rate([[0.0] * 16, [1.0] * 16], source())
    assert (apart.low, apart.high) == (0.0, 1.0)


def test_few_victims_have_no_bounds_and_none_are_refused() -> None:
    assert nested_mean([[1.0], [0.0]], source()).low is None
    with pytest.raises(ValueError, match="at least one victim"):
        nested_mean([[]], source())
    with pytest.raises(ValueError, match="at least one seed"):
        mean_over_seeds([])
    assert mean_over_seeds([0.5]) == Interval(value=0.5, low=None, high=None, n=1)
    assert nested_mean([[1.0], [0.0]], source()) == Interval(value=0.5, low=None, high=None, n=2)
    assert nested_mean([[1.0], [0.0], [1.0]], source()).low is not None


def test_the_mean_over_seeds_is_scipys_t_interval() -> None:
    values = [0.91, 0.93, 0.88]
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    own = mean_over_seeds(values)
    assert (own.low, own.high, own.n) == pytest.approx((theirs.low, theirs.high, 3))


@pytest.mark.parametrize("n", [4, 9, 40])
def test_the_sign_flip_test_is_scipys_permutation_test(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.3, 1.0, n)
    theirs = stats.permutation_test((differences,), np.sum, permutation_type="samples", rng=source(), n_resamples=9999)
    assert sign_flip_p(list(differences), source()) == pytest.approx(theirs.pvalue, abs=0.015 if n > 12 else 1e-9)


@pytest.mark.parametrize(("n", "denominator"), [(12, 2**12), (13, 10_000)])
def test_the_sign_flip_test_counts_every_flip_of_12_pairs_and_draws_those_of_more(n: int, denominator: int) -> None:
    """Drawn flips count the one that was seen too, so that p is never 0."""
    differences = list(np.random.default_rng(n).normal(0.5, 1.0, n))
    numerator = sign_flip_p(differences, source()) * denominator
    assert numerator == pytest.approx(round(numerator), abs=1e-9)  # a product of doubles below 10,000
    assert numerator >= 1


def test_pairs_that_agree_say_nothing() -> None:
    assert sign_flip_p([0.0] * 30, source()) == 1.0
    assert sign_flip_p([1.0] * 4 + [0.0] * 30, source()) == sign_flip_p([1.0] * 4, source()) == 2 / 16


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_with_bonferroni(p_values: list[float]) -> None:
    """A hypothesis falls when every intersection that holds it falls; the adjusted p-value is the largest of those."""
    numbers = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(numbers, size)]
    expected = [
        max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in subsets if number in s) for number in numbers
    ]
    assert holm(p_values) == pytest.approx(expected)


def test_pairs_are_victims_that_both_have() -> None:
    treated = {(1, 1, 0): 1.0, (1, 1, 1): 0.5, (2, 1, 0): 0.0, (3, 1, 0): 1.0}
    control = {(1, 1, 0): 0.0, (1, 1, 1): 0.5, (2, 1, 0): 1.0, (4, 1, 0): 1.0}
    assert pair(treated, control) == [[1.0, 0.0], [-1.0]]


def test_the_interval_of_a_mean_ends_where_its_values_end() -> None:
    free, within = mean_over_seeds([0.2, 0.9]), mean_over_seeds([0.2, 0.9], limits=(0.0, 1.0))
    assert (free.low, free.high) != (within.low, within.high)
    assert (within.value, within.low, within.high) == (free.value, 0.0, 1.0)
    assert mean_over_seeds([0.2, 0.9], limits=(None, 1.0)) == free.model_copy(update={"high": 1.0})
