"""Risk by group against scikit-learn, an exact test by hand, and simulations without any difference."""

from math import comb

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedsim.metrics.groups import aucs, rates
from fedsim.metrics.statistics import wilson


def test_rates_have_their_interval_and_fishers_exact_p_after_holm() -> None:
    found = [("a", True)] * 5 + [("a", False)] + [("b", True)] + [("b", False)] * 5
    risks = rates(found)
    assert [*risks] == ["a", "b"]
    a, b = risks.values()
    assert a.value == wilson(5, 6)
    exact = sum(comb(6, k) * comb(6, 6 - k) for k in (0, 1, 5, 6)) / comb(12, 6)  # as far from 3 as 5 is
    assert a.p == pytest.approx(min(1.0, 2 * exact))
    assert b.p == a.p
    (only,) = rates([("a", True)] * 3).values()
    assert (only.value.value, only.p) == (1.0, None)


def test_each_groups_auc_is_that_of_scikit_learn_and_a_group_at_risk_stands_out() -> None:
    source = np.random.default_rng(0)
    groups = np.repeat(["one", "two", "three", "few"], [120, 120, 120, 4])
    is_member = np.tile([True, False], 182)
    scores = source.normal(size=364) + 1.5 * (is_member & (groups == "two"))
    found = aucs(scores, is_member, list(groups), np.random.default_rng(1))
    assert set(found) == {"one", "two", "three"}
    for name, own in found.items():
        chosen = groups == name
        assert own.value.value == pytest.approx(roc_auc_score(is_member[chosen], scores[chosen]))
    p = {name: own.p or 0.0 for name, own in found.items()}
    assert p["two"] < 0.01
    assert p["three"] > 0.05


def test_without_a_difference_few_runs_find_one() -> None:
    """Holm keeps the chance of any false finding at 5 %: at most 10 of 200 runs are expected, 20 is 3 deviations."""
    source, hits = np.random.default_rng(5), 0
    groups = ["a"] * 60 + ["b"] * 60 + ["c"] * 60
    is_member = np.tile([True, False], 90)
    for _ in range(200):
        found = aucs(source.normal(size=180), is_member, groups, np.random.default_rng(1), resamples=2)
        hits += any((own.p or 1.0) < 0.05 for own in found.values())
    assert hits <= 20
