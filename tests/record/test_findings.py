"""A finding says what it comes to, and its JSON holds what was found alone."""

import json
from typing import Any

import pytest

from fedsim.record import Finding, Interval


def finding(low: float | None = 0.6, **own: Any) -> Finding:
    value = Interval(value=0.7, low=low, high=None if low is None else 0.8, n=50)
    settings: dict[str, Any] = {"question": "membership", "label": "lira", "metric": "auc", "value": value}
    return Finding(**{**settings, "chance_level": 0.5, **own})


@pytest.mark.parametrize(
    ("own", "state"),
    [
        (finding(), "recovered"),
        (finding(low=0.4), "withstood"),
        (finding(low=0.5), "withstood"),  # an interval that touches chance holds it
        (finding(low=None), "undecided"),
        (finding(chance_level=None), "undecided"),
        (finding(value=None), "undecided"),
        (finding(value=None, failure="no shadows"), "failed"),
        (finding(failure="it broke behind its value"), "failed"),
    ],
)
def test_its_state_follows_from_its_interval_and_chance(own: Finding, state: str) -> None:
    assert own.state == state


@pytest.mark.parametrize(("p", "is_above"), [(None, True), (0.01, True), (0.05, True), (0.051, False)])
def test_a_permutation_test_must_agree_where_there_is_one(p: float | None, is_above: bool) -> None:
    own = finding(p_value=p)
    assert own.is_above_chance is is_above
    assert own.state == ("recovered" if is_above else "withstood")


def test_it_rests_on_the_units_of_its_value() -> None:
    assert finding().n == 50
    assert finding(value=None).n == 0


def test_what_it_is_of_is_told_in_words() -> None:
    assert finding().scope_in_words == ""
    assert finding(scope={"client": 3, "rounds": "1, 4"}).scope_in_words == "client 3, rounds 1, 4"


def test_defaults_are_left_out_of_json_and_come_back() -> None:
    bare = Finding(question="audit", label="", metric="epsilon_lower_bound")
    assert bare.model_dump() == {"question": "audit", "label": "", "metric": "epsilon_lower_bound"}
    assert bare.seconds == 0.0
    full = finding(
        role="negative-control",
        p_value=0.0,
        max_value=1.0,
        extra_metrics={"auc": Interval(value=1.0, low=None, high=None, n=2)},
    )
    assert "failure" not in full.model_dump()
    for own in (bare, full, finding(failure="why", note="a", alarm="b", seconds=2.0, items="c", settings={"k": 0})):
        assert Finding.model_validate_json(own.model_dump_json()) == own
        assert Finding.model_validate(json.loads(own.model_dump_json())) == own


def test_a_p_value_and_a_chance_of_nothing_are_no_defaults() -> None:
    own = finding(p_value=0.0, chance_level=0.0)
    again = Finding.model_validate_json(own.model_dump_json())
    assert (again.p_value, again.chance_level) == (0.0, 0.0)
    assert again.is_above_chance


def test_a_figure_is_known_by_its_metric_main_or_further() -> None:
    rate = Interval(value=0.2, low=0.1, high=0.3, n=50)
    own = finding(extra_metrics={"tpr_at_fpr_0.01": rate})
    assert own.figures == {"auc": own.value, "tpr_at_fpr_0.01": rate}
