"""When an example counts as recovered: by the scenario's metric, or by one that says so itself."""

import pytest

from fedsim.core.errors import FedsimError
from fedsim.core.metric import Metric
from fedsim.metrics.success import Rule
from fedsim.record import ItemScore

DECLARED = {
    own.name: own
    for own in (
        Metric(name="error", title="error", meaning="", over="item", better="lower", unit="dB"),
        Metric(name="likeness", title="likeness", meaning="", over="item", leads=True),
        Metric(name="exact", title="word for word", meaning="", over="item", form="flag", threshold=0.5),
        Metric(name="plain", title="plain", meaning="", over="item"),
        Metric(name="identified", title="identified", meaning="", over="item", form="flag", threshold=0.5),
    )
}


def item(**values: float) -> ItemScore:
    return ItemScore(index=0, values=values)


@pytest.mark.parametrize(("value", "succeeds"), [(0.9, True), (1.0, False), (1.1, False)])
def test_the_scenarios_metric_decides_in_its_own_direction_and_strictly(value: float, succeeds: bool) -> None:
    rule = Rule("error", 1.0, DECLARED)
    assert rule.has_succeeded(item(error=value, exact=0.0)) is succeeds
    assert rule.format_rule({"error": value}) == "error < 1 dB"
    assert rule.goal({"error": value, "likeness": 0.0}).name == "error"


def test_where_nothing_is_identified_the_first_metric_with_a_threshold_of_its_own_decides() -> None:
    rule, values = Rule("identified", 0.5, DECLARED), {"plain": 0.0, "likeness": 0.0, "exact": 1.0}
    assert rule.decides(values) == (DECLARED["exact"], 0.5)
    assert rule.has_succeeded(item(**values))
    assert not rule.has_succeeded(item(**{**values, "exact": 0.0}))
    assert rule.format_rule(values) == "word for word"
    assert rule.goal(values).name == "likeness"
    assert rule.goal({"exact": 1.0}).name == "exact"
    assert Rule("error", 1.0, DECLARED).decides({}) == (DECLARED["error"], 1.0)


GRADED = {
    metric.name: metric
    for metric in (
        Metric(name="pixels", title="exact", meaning="", over="item", form="flag", verdict="exact"),
        Metric(name="likeness", title="likeness", meaning="", over="item", threshold=0.5, verdict="readable"),
        Metric(name="error", title="error", meaning="", over="item", better="lower", threshold=2.0, verdict="near"),
        Metric(name="identified", title="", meaning="", over="item", form="flag", threshold=0.5, verdict="identified"),
    )
}


@pytest.mark.parametrize(
    ("values", "level"),
    [
        ({"identified": 1.0, "likeness": 0.2, "pixels": 0.0}, "identified"),
        ({"identified": 1.0, "likeness": 0.5, "pixels": 0.0}, "identified"),
        ({"identified": 1.0, "likeness": 0.51, "pixels": 0.0}, "readable"),
        ({"identified": 1.0, "likeness": 0.2, "pixels": 1.0}, "exact"),
        ({"pixels": 1.0, "likeness": 0.9, "identified": 1.0}, "exact"),
        ({"identified": 0.0, "likeness": 0.9, "pixels": 1.0}, ""),
        ({"identified": 0.0}, ""),
    ],
)
def test_the_level_of_a_success_is_the_best_that_was_measured(values: dict[str, float], level: str) -> None:
    assert Rule("identified", 0.5, GRADED).level(item(**values)) == level


def test_a_success_by_another_metric_has_that_metrics_verdict() -> None:
    assert Rule("error", 2.0, GRADED).level(item(error=1.0, likeness=0.1)) == "near"
    assert Rule("error", 2.0, GRADED).level(item(error=1.0, likeness=0.9)) == "readable"
    assert Rule("error", 2.0, GRADED).level(item(error=2.0, likeness=0.9)) == ""


@pytest.mark.parametrize(
    ("metric", "threshold", "word"),
    [
        ("likeness", 0.5, "readable"),
        ("likeness", 0.6, "readable"),
        ("likeness", 0.49, "recovered"),
        ("error", 2.0, "near"),
        ("error", 1.9, "near"),
        ("error", 2.1, "recovered"),
        ("identified", 0.5, "identified"),
        ("pixels", 0.5, "exact"),
    ],
)
def test_a_threshold_below_that_of_the_metric_has_no_word_of_its_own(metric: str, threshold: float, word: str) -> None:
    assert Rule(metric, threshold, GRADED).verdict({metric: 0.0}) == word


def test_where_none_decides_the_user_is_told_what_to_set() -> None:
    with pytest.raises(FedsimError, match="scoring.metric is 'error', but the guesses have plain. Set scoring"):
        Rule("error", 1.0, DECLARED).decides({"plain": 1.0})
    with pytest.raises(FedsimError, match="scoring.metric is 'error', but the guesses have exact"):
        Rule("error", 1.0, DECLARED).decides({"exact": 1.0})


def test_a_rule_of_a_run_knows_the_metrics_that_are_installed() -> None:
    assert Rule.of("psnr", 20.0).format_rule({"psnr": 21.0}) == "PSNR > 20 dB"
