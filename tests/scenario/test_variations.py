"""Sweeps and searches: what has no value, stands there twice, or is no range."""

from typing import Any

import pytest
from pydantic import ValidationError

from fedsim.scenario.variations import SearchRange, Sweep, Tune


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"grid": {"model.dropout": []}}, "'model.dropout' has no value, so no run is defined"),
        ({"seeds": [1, 2, 1]}, "seeds: 1 stands there twice"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"minutes": 0}, "greater than 0"),
    ],
)
def test_a_sweep_without_a_value_or_with_a_seed_twice_is_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Sweep.model_validate(raw)


@pytest.mark.parametrize("raw", [{"low": 1, "high": 1}, {"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}])
def test_a_range_goes_up_and_on_a_logarithm_from_above_zero(raw: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="expected low below high, and low above 0 with log"):
        SearchRange.model_validate(raw)


def test_a_search_is_over_ranges_or_lists() -> None:
    own = Tune.model_validate({"attack": "ig", "space": {"a": {"low": 0.1, "high": 1, "log": True}, "b": [1, 2]}})
    assert own.space == {"a": SearchRange(low=0.1, high=1, log=True), "b": (1, 2)}
    with pytest.raises(ValidationError, match="at least 1"):
        Tune.model_validate({"attack": "ig", "space": {}})
