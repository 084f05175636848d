"""Arms are all combinations."""

from hypothesis import given
from hypothesis import strategies as st

from fedsim.scenario import arms, parse


def test_arms_may_differ_in_the_method_itself() -> None:
    raw = {"title": "t", "data": {"name": "digits"}, "model": {"name": "mlp", "dropout": 0.1}}
    scenario = parse({**raw, "arms": {"model.name": ["mlp", "vit-small"]}}, "s")
    assert [arm.model.settings["dropout"] for _, arm in arms(scenario)] == [0.1, 0.1]
    assert ["bias" in arm.model.settings for _, arm in arms(scenario)] == [True, False]


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=3), st.lists(st.integers(1, 64), min_size=1, max_size=3))
def test_arms_are_all_combinations(rates: list[float], widths: list[int]) -> None:
    raw = {"title": "t", "data": {"name": "digits"}, "model": {"name": "mlp"}}
    scenario = parse({**raw, "arms": {"model.dropout": rates, "model.width": widths}}, "s")
    expected = [(rate, width) for rate in rates for width in widths]
    found = [(arm.model.settings["dropout"], arm.model.settings["width"]) for _, arm in arms(scenario)]
    assert found == expected
    assert all(not arm.arms for _, arm in arms(scenario))
