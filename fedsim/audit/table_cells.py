"""Cells of an audit's tables as text."""

from __future__ import annotations

from fedsim.audit import evidence, verdict
from fedsim.audit.record import AuditArm, AuditRecord
from fedsim.audit.scoring import metrics_of
from fedsim.judgement.limits import LimitState
from fedsim.judgement.outcome import is_every_word_read
from fedsim.record import Finding, Interval
from fedsim.report.verdict import Column, bounds, failed_on, with_bounds

_KEEPS: dict[LimitState, str] = {"kept": "yes", "undecided": "undecided", "broken": "no"}
TARGET = "target"  # noun of metrics of non-class targets


def interval(figure: Interval, scale: float, digits: int) -> str:
    """Return value and bounds as text."""
    return with_bounds(f"{scale * figure.value:.{digits}f}", bounds(figure, scale, digits))


def format_recovered(arm: AuditArm) -> str:
    """Return the recovered share in percent, as text."""
    if arm.is_unknown:
        return "not known" if evidence.ended_early(arm.victims) else "failed"
    if arm.recovered_share is None:
        return "not scored"
    failed = failed_on(sum(victim.failure is not None for victim in arm.victims), len(arm.victims))
    return f"{interval(arm.recovered_share, 100, 0)} %{f', {failed}' if failed else ''}"


def searches(record: AuditRecord, arm: AuditArm) -> tuple[str, str, str, str]:
    """Return updates, search length, recovered share and the ideal attacker's result, as text.

    The search length lists iterations, restarts, and how many searches converged.
    """
    victims, starts = arm.victims, evidence.restarts(arm.victims)
    starts_text = f" x {starts}" if starts > 1 else ""
    converged = f"{evidence.count_converged(victims)} of {len(victims)} converged"
    ideal = evidence.ideal(victims, record.plan.scoring.rule).text
    return (
        str(len(victims)),
        f"{evidence.iterations(victims)}{starts_text} it., {converged}",
        format_recovered(arm),
        ideal,
    )


def winner(arm: AuditArm) -> str:
    """Return the attack that `auto` chose for most updates, or the word readout if no sentence was recovered."""
    if arm.recovered_share and not arm.recovered_share.value and any(map(is_every_word_read, arm.victims)):
        return "word-readout: every word, not their order"
    won = [
        note.removeprefix("won: ").partition(",")[0]
        for victim in arm.victims
        for note in victim.notes
        if note.startswith("won: ")
    ]
    if won:
        return max(set(won), key=lambda name: (won.count(name), name))
    return "an unfinished search" if evidence.ended_early(arm.victims) else "none"


def headline(noun: str = "image") -> Column:
    """Return the column of example quality shown with the recovered share, preferably a metric with a distribution."""
    known = [metric for metric in metrics_of(noun) if metric.statistics and metric.shown]
    metric = max(known, key=lambda metric: (metric.spread, metric.decides))  # ties keep the first metric
    name, statistic = next(iter(metric.statistics.items()))
    return Column(name, metric.heading(statistic), metric)


def target_columns(record: AuditRecord) -> list[Column]:
    """Return the columns of target metrics that the attacks measured; empty for class labels."""
    known = {name for arm in record.client for attack in arm.attacks for name in attack.extra_metrics}
    return [
        Column(name, metric.heading(statistic), metric)
        for metric in metrics_of(TARGET)
        for name, statistic in metric.statistics.items()
        if name in known
    ]


def figure_of(arm: AuditArm, column: Column) -> str:
    """Return a metric of recovered examples with its interval as text; empty if it was not measured."""
    figure, metric = next((attack.extra_metrics.get(column.name) for attack in arm.attacks), None), column.metric
    return f"{interval(figure, metric.scale, metric.digits)}{metric.suffix}" if figure else ""


def format_policy_state(record: AuditRecord, arm: AuditArm) -> str:
    """Return whether a defense keeps the policy, as text."""
    state = verdict.judge_defense(record, arm)
    return "no policy" if record.policy.is_empty and state != "undecided" else _KEEPS[state]


def group_cells(finding: Finding) -> tuple[str, str, str, str, str]:
    """Return the cells of a group: measure, group, size, value, and p-value."""
    value = interval(finding.value, 1, 2) if finding.value else ""
    p = "" if finding.p_value is None else f"{finding.p_value:.2g}"
    return finding.label, str(finding.scope["group"]), str(finding.n), value, p
