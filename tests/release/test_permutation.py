"""Shuffled labels say what luck comes to."""

import numpy as np
import pytest

from fedsim.record import Finding, Interval
from fedsim.release.permutation import PermutationTest, permutation_test, with_control

LABELS = np.arange(40) < 20


def luck_of(scores: np.ndarray) -> PermutationTest:
    return permutation_test(lambda labels: float(scores[labels].mean()), LABELS, np.random.default_rng(0))


def test_what_luck_never_reaches_has_the_least_p() -> None:
    p, value = luck_of(LABELS.astype(float))
    assert p == 0.001
    # The mean of 20 of 40 values has a deviation of 0.08, that of 999 such means 0.0025: 4 of them.
    assert value.value == pytest.approx(0.5, abs=0.01)
    assert (value.low or 0) < 0.5 < (value.high or 0)


def test_what_every_shuffle_reaches_has_p_one() -> None:
    assert luck_of(np.ones(40)).p == 1.0


def test_a_control_stands_behind_its_figure() -> None:
    value, control = Interval(value=1, low=1, high=1, n=40), Interval(value=0.5, low=0.4, high=0.6, n=40)
    both = with_control(Finding(question="membership", label="a", metric="auc", value=value), 0.02, control)
    assert [(one.role, one.label, one.value, one.p_value) for one in both] == [
        ("attack", "a", value, 0.02),
        ("negative-control", "a, control", control, None),
    ]
