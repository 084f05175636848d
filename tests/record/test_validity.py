"""A control that is clearly above chance makes the findings beside it invalid, and no others."""

from typing import Any

import pytest

from fedsim.record import ArmFindings, Finding, Interval
from fedsim.record.validity import is_clearly_above_chance, mark_invalid


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
