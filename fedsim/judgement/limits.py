"""Limits of a policy: the interval of a figure decides whether its limit is kept, undecided or broken.

Runs, sweeps, audits and release checks state their figures as a `Case`; `judge` and `exit_code` are the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from fedsim.judgement.policy import Policy
from fedsim.metrics.membership import name_of
from fedsim.metrics.statistics import wilson
from fedsim.record import Finding, GuaranteeRecord, Interval
from fedsim.record.guarantees import weakest_against_server

LimitState = Literal["kept", "undecided", "broken"]

BROKEN, UNDECIDED = 3, 4  # exit codes
MEMBERS_FOUND = name_of(0.01)  # the metric of max_membership_tpr
_MOST_UPDATES = 1_000_000
SEVERITY: Sequence[LimitState] = ("kept", "undecided", "broken")
"""States of a limit, the best first."""


class Figure(NamedTuple):
    """A measured figure that a limit of a policy bounds.

    Attributes:
        label: attack, batch size or method that gave the figure.
        value: value with interval; None without a measurement.
        doubts: reasons why a low value is no evidence, as clauses; empty if it is evidence.
        invalid: reason why the value does not count; empty if it is valid.
        missing_reason: reason of a missing value, as a sentence without full stop.
        word: participle for an example that counts in a share, for example "identified".
        advice: how many more measurements would decide, as a clause.
    """

    label: str
    value: Interval | None
    doubts: tuple[str, ...] = ()
    invalid: str = ""
    missing_reason: str = ""
    word: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Case:
    """The figures of a client, a setting or a finished model, by limit.

    A limit does not apply to the case if its figures are None. A limit that applies and has no figure is undecided.

    Attributes:
        recognisable: shares of attacked examples that were recovered; each is held to the limit.
        accuracy_loss: lost test accuracy.
        members: shares of members that membership attacks find at 1 % false positives; the worst decides.
        findings: figures of the limits in `Policy.findings`, by metric; each is held to the limit.
        guarantees: stated guarantees; empty where a private method is required and absent.
    """

    recognisable: Sequence[Figure] | None = None
    accuracy_loss: Figure | None = None
    members: Sequence[Figure] | None = None
    findings: Mapping[str, Sequence[Figure]] = field(default_factory=dict[str, Sequence[Figure]])
    guarantees: Sequence[GuaranteeRecord] | None = None


class JudgedLimit(NamedTuple):
    """The state of a limit: its key in the policy, the place in the case, the bound, and the deciding figure."""

    rule: str
    where: str
    limit: float
    state: LimitState
    figure: Figure


def judge(policy: Policy, case: Case) -> list[JudgedLimit]:
    """Return the state of every limit that the policy states and that applies to the case."""
    loss = None if case.accuracy_loss is None else [case.accuracy_loss]
    guaranteed = None if case.guarantees is None else [_epsilon_figure(case.guarantees)]
    return [
        *_judged_figures("max_recovered", "", policy.max_recovered, case.recognisable),
        *_worst("max_accuracy_loss", "accuracy", policy.max_accuracy_loss, loss),
        *_worst("max_membership_tpr", "membership", policy.max_membership_tpr, case.members),
        *(
            judged
            for name, limit in policy.findings.items()
            for judged in _judged_figures(name, "findings", limit, case.findings.get(name, ()))
        ),
        *_worst("max_epsilon", "guarantees", policy.max_epsilon, guaranteed),
    ]


def worst(states: Iterable[LimitState]) -> LimitState:
    """Return the state of several limits together: broken, then undecided; kept only where all are."""
    return SEVERITY[max(map(SEVERITY.index, states), default=0)]


def exit_code(policy: Policy, states: Iterable[LimitState]) -> int:
    """Return `BROKEN` for a broken limit, `UNDECIDED` for an undecided limit unless the policy passes it, else 0."""
    state = worst(states)
    if state == "broken":
        return BROKEN
    return UNDECIDED if state == "undecided" and policy.undecided == "fail" else 0


def figures_of(findings: Iterable[Finding], metric: str) -> list[Figure]:
    """Return the attacks' figures of a metric, including invalid figures."""
    return [
        Figure(finding.label, value, invalid=finding.invalid)
        for finding in findings
        if finding.role == "attack" and (value := finding.figures.get(metric)) is not None
    ]


def judge_limit(interval: Interval | None, limit: float, *, is_evidence: bool = True) -> LimitState:
    """Return whether an upper limit is kept.

    Args:
        interval: measured value with interval; None without a measurement.
        limit: the upper limit, inclusive.
        is_evidence: whether a low value is evidence: failed searches are only if they converged.

    Returns:
        Broken if the lower bound exceeds the limit, kept if the upper bound does not, else undecided.
    """
    if interval is None:
        return "undecided"
    if interval.low is not None and interval.low > limit:
        return "broken"
    if is_evidence and interval.high is not None and interval.high <= limit:
        return "kept"
    return "undecided"


def updates_to_decide(interval: Interval, limit: float, confidence: float) -> int | None:
    """Return how many more updates decide about a limit if the share stays equal; None if no number does."""
    share = interval.value
    if share == limit or limit >= 1.0:
        return None

    def decides(n: int) -> bool:
        at_n = wilson(share * n, n, confidence)
        return (at_n.low or 0.0) > limit if share > limit else (1.0 if at_n.high is None else at_n.high) <= limit

    low, high = interval.n, max(1, interval.n)
    while not decides(high):
        low, high = high, 2 * high
        if high > _MOST_UPDATES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return max(0, high - interval.n)


def _judged_figures(
    rule: str, place: str, limit: float | None, figures: Sequence[Figure] | None
) -> Iterator[JudgedLimit]:
    """Yield the state of a limit for each figure; without figures, a single undecided state at `place`."""
    if limit is None or figures is None:
        return
    for figure in figures or [Figure(place, None)]:
        yield JudgedLimit(rule, figure.label, limit, _state(figure, limit), figure)


def _worst(rule: str, place: str, limit: float | None, figures: Sequence[Figure] | None) -> Iterator[JudgedLimit]:
    """Yield the state of a limit for the worst of the figures; of equal states the figure that may reach furthest."""
    judged = list(_judged_figures(rule, place, limit, figures))
    if judged:
        yield max(judged, key=_badness)._replace(where=place)


def _state(figure: Figure, limit: float) -> LimitState:
    return "undecided" if figure.invalid else judge_limit(figure.value, limit, is_evidence=not figure.doubts)


def _badness(judged: JudgedLimit) -> tuple[float, ...]:
    value, is_valid = judged.figure.value, not judged.figure.invalid
    reach = math.inf if value is None or value.high is None else value.high
    return SEVERITY.index(judged.state), is_valid, reach, 0.0 if value is None else value.value


def _epsilon_figure(stated: Sequence[GuaranteeRecord]) -> Figure:
    """Return the epsilon of the weakest guarantee against the server, the attacker; infinite without a guarantee."""
    if weakest := weakest_against_server(stated):
        return Figure(weakest.source, _exactly(weakest.epsilon))
    missing = "no guarantee holds against the server, which is the attacker"
    return Figure(
        "", _exactly(math.inf), missing_reason=missing if stated else "nothing in the client states an epsilon"
    )


def _exactly(value: float) -> Interval:
    return Interval(value=value, low=value, high=value, n=1)
