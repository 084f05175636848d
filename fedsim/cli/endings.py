"""What stands on the screen when a run has ended: tables of results, guarantees, and what is in doubt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from fedsim.record import (
    GuaranteeRecord,
    Interval,
    RunRecord,
    Summary,
)
from fedsim.report.verdict import Column, Judge


def memberships(record: RunRecord) -> Table:
    """Return the final table of arms and membership attacks."""
    table = Table(title="Who was a member?", title_justify="left")
    fractions = sorted({low.fpr for a in record.arms for m in a.membership if m.summary for low in m.summary.low_fpr})
    headings = ("arm", "attack", "AUC", *(f"TPR at FPR {fpr:.1%}" for fpr in fractions[::-1]), "n")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("arm", "attack") else "right")
    for arm in record.arms:
        for own in arm.membership:
            cells: Sequence[str] = ("-",) * (len(headings) - 2)
            if own.summary is not None:
                low = (_rate(each.tpr) if each.tpr else "-" for each in own.summary.low_fpr)
                cells = (_number(own.summary.auc, 2), *low, f"{own.members} + {own.non_members}")
            table.add_row(arm.name, own.label, *cells)
    return table


def exposures(record: RunRecord) -> Table:
    """Return the final table of arms and planted secrets."""
    table = Table(title="What was memorised?", title_justify="left")
    for heading in ("arm", "secrets", "repetitions", "exposure (bits)", "at most", "extracted", "found by search", "n"):
        table.add_column(heading, justify="left" if heading in ("arm", "secrets") else "right")
    for arm in record.arms:
        for own in arm.exposure.summaries if arm.exposure else ():
            found = "-" if own.found is None else _percent(own.found)
            figures = (_number(own.exposure, 2), f"{own.most:.1f}", _percent(own.extracted), found)
            table.add_row(arm.name, own.kind, str(own.repetitions), *figures, str(own.exposure.n))
    return table


def results(record: RunRecord) -> Table:
    """Return the table of arms and attacks that ends a run."""
    attacks = [attack for arm in record.arms for attack in arm.attacks]
    judge = Judge.of(record)
    columns, deciding = judge.columns(attacks), judge.deciding(*attacks)
    success = f"{deciding.noun}s {deciding.verdict}"
    table = Table(title=str(record.scenario["title"]), title_justify="left")
    for heading in ("arm", "attack", success, *map(_heading, columns), "n"):
        table.add_column(heading, justify="left" if heading in ("arm", "attack") else "right")
    for arm in record.arms:
        for attack in arm.attacks:
            summary = attack.summary
            cells: Sequence[str] = ("-",) * (len(columns) + 2)
            if summary is not None:
                unsure = "" if arm.replay_matches else " (truth unsure)"
                cells = (_percent(summary.success) + unsure, *_cells(summary, columns), str(summary.success.n))
            table.add_row(arm.name, attack.label, *cells)
    return table


def _heading(column: Column) -> str:
    return f"{column.heading} ({column.metric.unit})" if column.metric.unit else column.heading


def _cells(summary: Summary, columns: Sequence[Column]) -> Iterator[str]:
    for own in columns:
        interval, percent = summary.metrics.get(own.name), own.metric.form != "number"
        yield "-" if interval is None else _percent(interval) if percent else _number(interval, own.metric.digits)


def doubt_truth(record: RunRecord) -> list[str]:
    """Return a sentence for every arm whose truth may be wrong."""
    return [
        f"The truth of {arm.name} is unsure: replaying the clients gave another update than the one on the wire, so "
        "scores may compare with the wrong images. The model, a component or a defense draws numbers that do not "
        "depend on the seed, or keeps state between two calls."
        for arm in record.arms
        if arm.attacks and not arm.replay_matches
    ]


def own_tables(record: RunRecord) -> list[Table]:
    """Return the tables of their own that metrics ask for, as that against the composites that clients trained on."""
    attacks = [attack for arm in record.arms for attack in arm.attacks]
    judge = Judge.of(record)
    titles = dict.fromkeys(metric.table for metric in record.metrics if metric.table)
    return [_own_table(record, title, columns) for title in titles if (columns := judge.columns(attacks, title))]


def _own_table(record: RunRecord, title: str, columns: Sequence[Column]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("arm", "attack", *map(_heading, columns)):
        table.add_column(heading, justify="left" if heading in ("arm", "attack") else "right")
    for arm in record.arms:
        for attack in arm.attacks:
            if attack.summary is not None and any(own.name in attack.summary.metrics for own in columns):
                table.add_row(arm.name, attack.label, *_cells(attack.summary, columns))
    return table


def guarantees(record: RunRecord) -> list[str]:
    """Return a line for every guarantee of every arm."""
    return [f"{arm.name}: {describe_guarantee(own)}" for arm in record.arms for own in arm.guarantees]


def audits(record: RunRecord) -> list[str]:
    """Return a line for every audited claim, marked where it is contradicted."""
    return [
        f"{'CONTRADICTED: ' if own.contradicts else 'Audit: '}{arm.name}: {own.figure}."
        for arm in record.arms
        for own in arm.audits
    ]


def describe_guarantee(own: GuaranteeRecord) -> str:
    """Return a guarantee with all that gives its epsilon meaning."""
    return (
        f"{own.source}: {own.figure}; unit: {own.neighbours}; {own.sampling}; {own.composition}; against {own.against}."
    )


def _percent(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.value:.0%}"
    return f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def _rate(interval: Interval) -> str:
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _number(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
