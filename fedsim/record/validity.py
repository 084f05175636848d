"""Validity of findings: a negative control above chance invalidates the attacks that it controls."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.record.findings import Finding

_MARGIN = (
    2.0  # lower halves of the control's interval: with a 95 % interval, about 1 in 20,000 fair controls exceeds it
)


def mark_invalid(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings of an arm, with attacks marked invalid if their negative control is clearly above chance.

    A negative control has nothing to find. If it succeeds, the attack obtains the answer from elsewhere, or the control
    is wrong; in both cases the attack's value is no evidence of leakage under the threat model.
    """
    reasons: dict[int, str] = {}
    for control in findings:
        if is_clearly_above_chance(control):
            reasons.update(dict.fromkeys(_controlled(control, findings), _reason(control)))
    return tuple(
        finding.model_copy(update={"invalid": reasons[place]}) if place in reasons else finding
        for place, finding in enumerate(findings)
    )


def is_clearly_above_chance(control: Finding) -> bool:
    """Whether a finding is a control that must be at chance, and lies above it by more than luck explains."""
    value, chance = control.value, control.chance_level
    if control.role != "negative-control" or not control.is_above_chance or value is None or chance is None:
        return False
    return value.low is not None and value.value - _MARGIN * (value.value - value.low) > chance


def _controlled(control: Finding, findings: Sequence[Finding]) -> list[int]:
    """Return the indices of the findings of a control: findings with its label, else with its method, else all."""
    places = [
        place
        for place, one in enumerate(findings)
        if one.question == control.question and one.role in ("attack", "positive-control")
    ]
    labels = [findings[place].label for place in places]
    longest = max((label for label in labels if control.label.startswith(f"{label}, ")), key=len, default=None)
    named = [place for place in places if findings[place].label == longest]
    alike = [place for place in places if findings[place].method == control.method]
    return named or alike or places


def _reason(control: Finding) -> str:
    return f"its control '{control.label}' is above chance, though it has nothing to find"
