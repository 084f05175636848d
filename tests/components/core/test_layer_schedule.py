"""The schedule of layers: fewer on later tokens, nested sets, and the budgets that the paper's table has."""

import random
from itertools import pairwise

from fedsim.components.core.layer_schedule import LayerSchedule, budgets


def drawn_schedules(count: int) -> list[LayerSchedule]:
    source, found = random.Random(0), list[LayerSchedule]()
    while len(found) < count:
        depth, warm_up = source.randint(1, 40), source.randint(0, 3)
        last, first, expected = source.randint(1, depth), source.randint(1, depth), source.randint(1, 60)
        if warm_up < last <= first:
            found.append(LayerSchedule(depth, first, last, warm_up, expected))
    return found


def test_budgets_never_rise_and_sets_of_layers_are_nested() -> None:
    for own in drawn_schedules(200):
        counts = [own.count(number) for number in range(own.expected_tokens + 5)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] == own.first
        assert set(counts[own.expected_tokens :]) == {own.last}
        sets = [set(own.layers(number)) for number in range(own.expected_tokens + 5)]
        assert [len(layers) for layers in sets] == counts
        assert all(later <= before for before, later in pairwise(sets))
        assert all(layers <= set(range(own.depth)) for layers in sets)
        assert all(set(range(own.depth - own.last + own.warm_up, own.depth)) <= layers for layers in sets), "the top"


def test_the_mean_budget_is_that_of_both_ends_and_the_default_is_the_papers() -> None:
    for own in drawn_schedules(200):
        if own.expected_tokens > 1:
            mean = sum(own.count(number) for number in range(own.expected_tokens)) / own.expected_tokens
            assert abs(mean - (own.first + own.last) / 2) <= 0.5
    assert [budgets(24, own, 1) for own in (2, 5)] == [(16, 8), (6, 4)]
    assert [budgets(32, own, 1) for own in (3, 4, 5)] == [(14, 8), (10, 6), (8, 5)]
    assert budgets(30, 1, 1) == (30, 30)
    for depth in range(2, 40):
        for speed_up in (1.0, 1.3, 2.0, 7.0):
            first, last = budgets(depth, speed_up, 1)
            assert 1 < last <= first <= depth
            assert first + last >= 2 * depth / speed_up
