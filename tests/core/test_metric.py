"""What a metric says of itself: its value for people, its direction, and what is written down."""

import pytest
from pydantic import ValidationError

from fedsim.core.metric import Metric


def metric(**settings: object) -> Metric:
    return Metric.model_validate({"name": "own", "title": "own figure", "meaning": "", "over": "item", **settings})


@pytest.mark.parametrize(
    ("settings", "value", "formatted", "told"),
    [
        ({}, 0.1234, "0.12", "own figure 0.12"),
        ({"unit": "dB", "digits": 1}, 20.06, "20.1 dB", "20.1 dB"),
        ({"form": "percent", "digits": 0}, 0.256, "26%", "own figure 26%"),
        ({"form": "flag", "digits": 0}, 1.0, "100%", "own figure 100%"),
    ],
)
def test_a_value_is_told_with_its_unit_or_its_title(
    settings: dict[str, object], value: float, formatted: str, told: str
) -> None:
    own = metric(**settings)
    assert (own.format(value), own.tell(value)) == (formatted, told)


def test_better_has_a_direction_and_a_threshold_itself_is_not_beyond() -> None:
    higher, lower = metric(), metric(better="lower")
    assert [higher.is_beyond(value, 1.0) for value in (0.9, 1.0, 1.1)] == [False, False, True]
    assert [lower.is_beyond(value, 1.0) for value in (0.9, 1.0, 1.1)] == [True, False, False]
    assert (higher.sign, lower.sign) == (1.0, -1.0)


def test_flags_are_booleans_in_tables_and_numbers_numbers() -> None:
    assert metric(form="flag").plain(1.0) is True
    assert metric().plain(0.5) == 0.5
    assert (metric().column_name, metric(column="short").column_name) == ("own", "short")
    assert metric().heading("median") == "median own figure"
    assert metric(form="percent").heading("mean") == "own figure"


def test_defaults_are_left_out_where_it_is_written_down_and_read_back() -> None:
    own = metric(unit="dB", limits=(0.0, None))
    assert own.model_dump() == {
        "name": "own", "title": "own figure", "meaning": "", "over": "item", "unit": "dB", "limits": (0.0, None),
    }  # fmt: skip
    assert Metric.model_validate_json(own.model_dump_json()) == own


def test_a_metric_of_a_round_has_no_statistics() -> None:
    with pytest.raises(
        ValidationError, match="a metric of a round has a single value per round: leave 'statistics' out"
    ):
        metric(over="round", statistics={"own_mean": "mean"})
