"""Dominance and frontier against brute force."""

import numpy as np

from fedsim.record import Interval
from fedsim.report.sweep.pareto import Place, best_of, dominate
from tests.report.sweep.estimating import estimated


def test_dominance_and_frontier_are_brute_force(typical):
    (_, found), source = estimated(typical[0]), np.random.default_rng(3)
    places = []
    for _ in range(40):
        accuracy, risk = source.integers(0, 20, 2) / 20
        wide, tall = source.random(2) * 0.2
        intervals = [Interval(value=v, low=v - w, high=v + w, n=9) for v, w in ((accuracy, wide), (risk, tall))]
        places.append(Place(found[0], "ig", *intervals))
    expected = [
        any(
            other.utility.value >= own.utility.value
            and other.risk.value <= own.risk.value
            and (other.utility.low > own.utility.high or other.risk.high < own.risk.low)
            for other in places
        )
        for own in places
    ]
    assert dominate(places) == expected
    best = {
        (own.utility.value, own.risk.value)
        for own in places
        if not any(
            (o.utility.value >= own.utility.value and o.risk.value < own.risk.value)
            or (o.utility.value > own.utility.value and o.risk.value <= own.risk.value)
            for o in places
        )
    }
    steps = [(place.utility.value, place.risk.value) for place in best_of(places)]
    assert set(steps) == best
    assert steps == sorted(steps)


def test_intervals_that_touch_do_not_beat_each_other(typical):
    _, found = estimated(typical[0])
    near, far = (Interval(value=value, low=value - 0.125, high=value + 0.125, n=9) for value in (0.5, 0.75))
    assert dominate([Place(found[0], "ig", far, near), Place(found[0], "ig", near, near)]) == [False, False]
    assert dominate([Place(found[0], "ig", near, near), Place(found[0], "ig", near, far)]) == [False, False]
