"""A control that is clearly above chance makes the findings beside it invalid, and no others."""

from typing import Any

import pytest
from scipy.stats import binom

from fedsim.metrics.statistics import wilson
from fedsim.record import ArmFindings, Finding, Interval
from fedsim.record.validity import FALSE_ALARM, binomial_tail, is_clearly_above_chance, mark_invalid


def finding(label: str, value: float = 0.9, low: float = 0.8, **own: Any) -> Finding:
    interval = Interval(value=value, low=low, high=min(1.0, 2 * value - low), n=50)
    return Finding(**{"question": "traces", "metric": "auc", "chance_level": 0.5, **own}, label=label, value=interval)


def control(label: str, value: float = 0.9, low: float = 0.8, **own: Any) -> Finding:
    return finding(label, value, low, **{"role": "negative-control", **own})


def invalid(*findings: Finding) -> list[str]:
    return [one.label for one in mark_invalid(findings) if one.invalid]


@pytest.mark.parametrize(
    ("own", "is_clear"),
    [
        (control("c", 0.71, 0.6), False),  # two lower halves reach 0.49
        (control("c", 0.72, 0.61), False),  # they end at chance
        (control("c", 0.73, 0.62), True),
        (control("c", 0.9, 0.8, p_value=0.2), False),
        (control("c", 0.9, 0.8, chance_level=None), False),
        (finding("c"), False),
        (control("c", role="positive-control"), False),
        (control("c", role="context"), False),
    ],
)
def test_only_a_control_that_luck_does_not_explain_counts(own: Finding, is_clear: bool) -> None:
    assert is_clearly_above_chance(own) is is_clear


def of_share(successes: int, n: int, chance: float, metric: str = "prompt_accuracy") -> Finding:
    value = wilson(successes, n)
    return control("c", metric=metric, chance_level=chance).model_copy(update={"value": value})


def marked(n: int, chance: float) -> list[int]:
    """Return every number of successes at which a control is clearly above chance."""
    return [count for count in range(n + 1) if is_clearly_above_chance(of_share(count, n, chance))]


@pytest.mark.parametrize(
    ("n", "chance", "first"),
    [(40, 0.5, 31), (40, 0.1, 12), (10, 0.5, 10), (10, 0.01, 3), (400, 0.5, 232), (9, 0.5, 10)],
)
def test_a_share_is_marked_from_the_first_count_that_chance_reaches_in_a_thousandth(
    n: int, chance: float, first: int
) -> None:
    assert marked(n, chance) == list(range(first, n + 1))
    assert binom.sf(first - 1, n, chance) <= FALSE_ALARM < binom.sf(first - 2, n, chance)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 40, 200])
@pytest.mark.parametrize("chance", [0.001, 0.02, 0.1, 0.25, 0.5, 0.9])
def test_a_fair_control_is_marked_in_at_most_a_thousandth_of_all_runs_and_an_informed_one_in_most(
    n: int, chance: float
) -> None:
    counts = marked(n, chance)
    assert sum(binom.pmf(counts, n, chance)) <= FALSE_ALARM
    if n >= 40 and chance <= 0.5:
        assert sum(binom.pmf(counts, n, (1 + chance) / 2 + 0.15)) > 0.95


def test_chance_of_zero_allows_no_success_and_chance_of_one_every() -> None:
    assert marked(10, 0.0) == list(range(1, 11))
    assert marked(10, 1.0) == []


def test_values_that_are_no_shares_keep_the_margin_of_two_lower_halves() -> None:
    assert not is_clearly_above_chance(of_share(31, 40, 0.5, "auc"))
    assert is_clearly_above_chance(of_share(33, 40, 0.5, "auc"))
    assert not is_clearly_above_chance(of_share(31, 40, 0.5, "a metric of a missing package"))


def test_a_mean_share_of_clusters_is_judged_by_its_interval_too() -> None:
    assert is_clearly_above_chance(control("c", 1.0, 1.0, metric="source_told", chance_level=0.5))
    few = control("c", 1.0, 1.0, metric="source_told", chance_level=0.5)
    three = few.model_copy(update={"value": Interval(value=0.9, low=0.8, high=1.0, n=3)})
    assert is_clearly_above_chance(three)


def test_a_fraction_of_a_success_is_rounded_down_and_a_rounding_error_is_not() -> None:
    assert binomial_tail(2.9, 4, 0.5) == binomial_tail(2, 4, 0.5) == pytest.approx(11 / 16)
    assert binomial_tail(3 - 1e-9, 4, 0.5) == pytest.approx(5 / 16)
    assert binomial_tail(0.4, 4, 0.5) == 1.0


def test_a_control_speaks_of_the_attack_with_the_longest_label_that_it_begins_with() -> None:
    some = (finding("dlg"), finding("dlg, long"), finding("dlg, long, twice"))
    assert invalid(*some, control("dlg, long, labels shuffled")) == ["dlg, long"]
    assert invalid(*some, control("dlg, labels shuffled")) == ["dlg"]


def test_else_of_those_of_its_method_and_else_of_all() -> None:
    some = (finding("a (member)", method="mean"), finding("b (member)", method="forest"))
    assert invalid(*some, control("a, labels shuffled (member)", method="mean")) == ["a (member)"]
    assert invalid(*some, control("c", method="other")) == ["a (member)", "b (member)"]


def test_other_questions_controls_and_contexts_stay() -> None:
    every = (
        finding("a", question="sources"),
        control("x", 0.5, 0.4),
        finding("y", role="context"),
        finding("z", role="positive-control"),
        finding("a"),
        control("c"),
    )
    marked = mark_invalid(every)
    assert [bool(one.invalid) for one in marked] == [False, False, False, True, True, False]
    assert mark_invalid(marked) == marked


def test_an_invalid_finding_is_in_that_state_and_not_above_chance() -> None:
    attack, _ = mark_invalid([finding("a"), control("a, shuffled")])
    assert (attack.state, attack.is_above_chance) == ("invalid", False)
    assert attack.invalid == "its control 'a, shuffled' is above chance, though it has nothing to find"
    assert attack.value == finding("a").value
    assert finding("a").model_copy(update={"failure": "it broke", "invalid": "x"}).state == "failed"


def test_an_arm_marks_findings_that_came_before_their_control_and_after_it() -> None:
    arm = ArmFindings(name="all").with_findings([finding("a")], {})
    assert arm.findings[0].state == "recovered"
    arm = arm.with_findings([control("a, shuffled")], {})
    assert [one.state for one in arm.findings] == ["invalid", "recovered"]
    later = ArmFindings(name="all").with_findings([control("a, shuffled")], {}).with_findings([finding("a")], {})
    assert [one.state for one in later.findings] == ["recovered", "invalid"]
