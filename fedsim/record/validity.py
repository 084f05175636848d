"""Validity of findings: a negative control above chance invalidates the attacks that it controls."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedsim.core import registry
from fedsim.record.findings import Finding

FALSE_ALARM = 0.001  # largest probability that a control at chance is marked
# Lower halves of the interval of a control that is no share of units: with a 95 % interval and a normal estimate, about
# 1 in 20,000 controls at chance exceeds them. Bootstrap intervals over few clients are too narrow, hence the reserve.
_MARGIN = 2.0
_ROUNDING = 1e-6


def mark_invalid(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings of an arm, with attacks marked invalid if their negative control is clearly above chance.

    A negative control has nothing to find. If it succeeds, the attack obtains the answer from elsewhere, or the control
    is wrong; in both cases the attack's value is no evidence of leakage under the threat model.
    """
    reasons: dict[int, str] = {}
    for control in findings:
        if is_clearly_above_chance(control):
            reasons.update(dict.fromkeys(_controlled_findings(control, findings), _reason(control)))
    return tuple(
        finding.model_copy(update={"invalid": reasons[place]}) if place in reasons else finding
        for place, finding in enumerate(findings)
    )


def is_clearly_above_chance(control: Finding) -> bool:
    """Whether a finding is a control that must be at chance, and lies above it by more than luck explains.

    For a share of n units (a counted metric) by a one-sided exact binomial test with error rate `FALSE_ALARM`. For
    other values, and for mean shares of clusters, by twice the lower half of the interval.
    """
    value, chance = control.value, control.chance_level
    if control.role != "negative-control" or not control.is_above_chance or value is None or chance is None:
        return False
    if value.low is not None and value.value - _MARGIN * (value.value - value.low) > chance:
        return True
    return _is_share(control.metric) and binomial_tail(value.value * value.n, value.n, chance) <= FALSE_ALARM


def binomial_tail(successes: float, n: int, chance: float) -> float:
    """Return the probability of at least so many successes in n independent trials; a fraction is rounded down."""
    from scipy.special import bdtrc  # noqa: PLC0415 - a list of methods does not wait for it

    largest_below = math.floor(successes + _ROUNDING) - 1
    return 1.0 if largest_below < 0 else float(bdtrc(largest_below, n, chance))


def _is_share(name: str) -> bool:
    known = registry.every_metric().get(name)
    return known is not None and known.is_success_count


def _controlled_findings(control: Finding, findings: Sequence[Finding]) -> list[int]:
    """Return the indices of the findings of a control: findings with its label, else with its method, else all."""
    places = [
        place
        for place, finding in enumerate(findings)
        if finding.question == control.question and finding.role in ("attack", "positive-control")
    ]
    labels = [findings[place].label for place in places]
    longest = max((label for label in labels if control.label.startswith(f"{label}, ")), key=len, default=None)
    named = [place for place in places if findings[place].label == longest]
    alike = [place for place in places if findings[place].method == control.method]
    return named or alike or places


def _reason(control: Finding) -> str:
    return f"its control '{control.label}' is above chance, though it has nothing to find"
