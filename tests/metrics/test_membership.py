"""ROC, AUC and rates at few false alarms, against scikit-learn, SciPy and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import roc_auc_score, roc_curve

from fedsim.core import registry
from fedsim.metrics.membership import (
    LOW_FPR,
    Separation,
    advantage,
    auc_interval,
    clopper_pearson,
    name_of,
    rate_of_luck,
    roc,
    separation,
    thin,
    tpr_at,
)
from fedsim.record import Interval

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=40).map(np.array)


@pytest.mark.parametrize(("members", "others"), [(100, 100), (60, 300)])
def test_luck_finds_more_members_than_the_share_of_false_alarms(members: int, others: int) -> None:
    """The k + 1 highest of M others leave (k + 1) / (M + 1) of the members above them, without ties."""
    source = np.random.default_rng(3)
    is_member = torch.arange(members + others) < members
    rate = rate_of_luck(torch.from_numpy(source.normal(size=len(is_member))), is_member, 0.01, source)
    expected = (others // 100 + 1) / (others + 1)
    # The rate of a shuffle is at most about geometric, so its deviation is near its mean; three errors of 400 shuffles.
    assert rate == pytest.approx(expected, rel=3 / math.sqrt(400))
    assert rate > 0.011


def test_luck_tells_nobody_apart_whose_scores_are_equal() -> None:
    assert rate_of_luck(torch.zeros(200), torch.arange(200) < 100, 0.01, np.random.default_rng(0)) == 0.0


@given(SCORES, SCORES)
def test_the_curve_is_that_of_scikit_learn_and_the_auc_that_of_all_pairs(a: np.ndarray, b: np.ndarray) -> None:
    labels, scores = np.repeat([1, 0], [len(a), len(b)]), np.concatenate([a, b])
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    own_fpr, own_tpr = roc(a, b)
    assert own_fpr == pytest.approx(fpr)
    assert own_tpr == pytest.approx(tpr)
    interval = auc_interval(a, b, np.random.default_rng(0), resamples=100)
    assert interval.value == pytest.approx(roc_auc_score(labels, scores))
    wins = [(x > y) + (x == y) / 2 for x, y in itertools.product(a, b)]
    assert interval.value == pytest.approx(np.mean(wins))


@given(SCORES, SCORES, st.sampled_from([0.5, 0.1, 0.05]))
def test_the_rate_at_few_false_alarms_is_the_best_of_all_thresholds(a: np.ndarray, b: np.ndarray, fpr: float) -> None:
    found = tpr_at(a, b, fpr)
    if len(b) * fpr < 1:
        assert found is None
        return
    thresholds = [np.inf, *a, *b]
    best = max(np.mean(a >= t) for t in thresholds if np.sum(b >= t) <= fpr * len(b) + 1e-9)
    assert found is not None
    assert found.value == pytest.approx(best)


def test_the_bootstrap_is_that_of_drawing_candidates_anew() -> None:
    source = np.random.default_rng(1)
    inside, outside = source.normal(1, 1, 60).round(1), source.normal(0, 1, 80).round(1)
    interval = auc_interval(inside, outside, np.random.default_rng(2), resamples=4000)
    drawn = []
    for _ in range(1500):
        a, b = source.choice(inside, 60)[:, None], source.choice(outside, 80)
        drawn.append(np.mean(a > b) + np.mean(a == b) / 2)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (20, 20)])
def test_clopper_pearson_is_the_beta_quantile(k: int, n: int) -> None:
    interval = clopper_pearson(k, n, 0.9)
    assert interval.low == pytest.approx(0.0 if k == 0 else beta.ppf(0.05, k, n - k + 1))
    assert interval.high == pytest.approx(1.0 if k == n else beta.ppf(0.95, k + 1, n - k))


def test_clopper_pearson_covers_95_of_100_unless_said() -> None:
    assert clopper_pearson(3, 20) == clopper_pearson(3, 20, 0.95)


def test_scores_that_say_nothing_have_no_advantage_on_average_and_perfect_ones_have_all() -> None:
    source = np.random.default_rng(3)
    members = np.arange(100) < 50
    drawn = [advantage(source.normal(size=100), source.permutation(members)) for _ in range(400)]
    assert abs(np.mean(drawn)) < 3 * np.std(drawn) / 20
    shuffled = source.permutation(members)
    assert advantage(shuffled.astype(float), shuffled) == 1.0


def test_both_halves_choose_a_threshold_and_the_mean_of_their_gains_counts() -> None:
    members = np.array([True, True, True, True, False, False, False, False])
    values = np.array([4.0, 1.0, 2.0, 0.0, 1.5, 0.1, 0.5, 0.2])
    # Even places separate from 2 on, which takes nobody of the odd ones: 0. Odd places gain most from 1 on, which takes
    # both members of the even ones, and one of the two others: 1 - 1/2.
    assert advantage(values, members) == pytest.approx((0.0 + 0.5) / 2)
    # Even places separate from 8 on, which takes one of the two odd members; odd places from 7 on, which takes both.
    apart = np.array([10.0, 9.0, 8.0, 7.0, 1.0, 2.0, 3.0, 4.0])
    assert advantage(apart, members) == pytest.approx((0.5 + 1.0) / 2)


def test_there_is_no_advantage_where_no_half_has_members_and_others() -> None:
    assert advantage(np.array([1.0, 0.0]), np.array([True, False])) == 0.0
    assert advantage(np.array([1.0, 0.0, 1.0, 0.0]), np.array([True, False, True, False])) == 0.0


def test_too_few_others_for_a_rate_give_none_and_the_curve_stays_short() -> None:
    source = np.random.default_rng(4)
    scores, is_member = torch.from_numpy(source.normal(size=6000)), torch.arange(6000) % 3 == 0
    summary = separation(scores, is_member, source, resamples=100)
    assert [*summary.rates] == [0.1, 0.01, 0.001]
    assert all(tpr.n == 2000 for tpr in summary.rates.values())
    assert summary.roc[0][0] == 0.0
    assert summary.roc[-1] == (1.0, 1.0)
    assert len(summary.roc) < 200
    few = separation(scores[:1000], is_member[:1000], source, resamples=100)
    assert [*few.rates] == [0.1, 0.01]


def test_figures_are_named_as_the_metrics_that_they_are() -> None:
    auc = Interval(value=0.6, low=0.5, high=0.7, n=200)
    rates = {fpr: Interval(value=2 * fpr, low=0.0, high=1.0, n=100) for fpr in LOW_FPR[:2]}
    figures = Separation(auc, 0.25, rates, ((0.0, 0.0), (1.0, 1.0))).figures
    assert figures == {
        "auc": auc,
        **{name_of(fpr): rate for fpr, rate in rates.items()},
        "advantage": Interval(value=0.25, low=None, high=None, n=200),
    }
    assert figures.keys() <= registry.every_metric().keys()


def test_thinning_keeps_the_upper_points_of_the_curve() -> None:
    source = np.random.default_rng(5)
    fpr, tpr = roc(source.normal(1, 1, 500), source.normal(0, 1, 500))
    for x, y in thin(fpr, tpr, 500):
        assert y == tpr[fpr <= x + 1e-12].max()


def test_thinning_keeps_few_alarms_about_40_a_decade_and_the_end() -> None:
    others = 20_000
    counts = np.arange(others + 1)
    expected = list(range(21))
    while (due := math.ceil(expected[-1] * 10 ** (1 / 40))) < others:
        expected.append(due)
    assert due > others  # the end is kept though it is not due
    kept = thin(counts / others, counts / others, others)
    assert [x for x, _ in kept] == [count / others for count in (*expected, others)]


def test_one_kind_alone_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="at least one member and one non-member"):
        separation(torch.zeros(3), torch.ones(3, dtype=torch.bool), np.random.default_rng(0))


@pytest.mark.parametrize("fpr", LOW_FPR)
def test_every_rate_of_few_false_alarms_is_a_metric_that_says_it(fpr: float) -> None:
    method = registry.get("metric", name_of(fpr))
    assert method.declares is not None
    assert method.declares.title == f"TPR at FPR {100 * fpr:g}%"
    assert f"at most {100 * fpr:g}% of the others" in method.summary
    inside, outside = np.linspace(0, 3, 50), np.linspace(-2, 2, 2000)
    assert method.make(inside, outside) == tpr_at(inside, outside, fpr)
