"""Tables of their own, of metrics that only some runs have, as those against composites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedsim.core.metric import Metric
from fedsim.record import AttackRecord, RunRecord
from fedsim.report.tables.figures import NOTHING, Estimate, figure_of
from fedsim.report.verdict import Column, Judge


@dataclass(frozen=True)
class OwnTable:
    """A table of attacks by arm; each row holds (arm, attack), what `headings` name, and what `counted` names."""

    title: str
    headings: tuple[str, ...]
    counted: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Estimate, ...], tuple[str, ...]], ...]


def own_tables(record: RunRecord, judge: Judge) -> list[OwnTable]:
    """Return a table for every title that metrics in the summaries of attacks ask for."""
    attacks = [attack for arm in record.arms for attack in arm.attacks]
    titles = dict.fromkeys(metric.table for metric in judge.declared.values() if metric.table)
    return [_table(record, judge, title, columns) for title in titles if (columns := judge.columns(attacks, title))]


def _table(record: RunRecord, judge: Judge, title: str, columns: list[Column]) -> OwnTable:
    broken = [own for own in columns if own.metric.ranges]
    counted = (
        f"{judge.declared[own.metric.by].title} {low} to {high}" for own in broken for low, high in own.metric.ranges
    )
    rows: list[tuple[str, str, tuple[Estimate, ...], tuple[str, ...]]] = []
    for arm in record.arms:
        for attack in arm.attacks:
            summary = judge.summary(attack)
            if summary is None or not any(own.name in summary.metrics for own in columns):
                continue
            counts = (count for own in broken for count in counts_of(attack, own.metric))
            rows.append((arm.name, attack.label, tuple(figure_of(summary, own) for own in columns), tuple(counts)))
    return OwnTable(title, tuple(own.heading for own in columns), tuple(counted), tuple(rows))


def counts_of(attack: AttackRecord, metric: Metric) -> Iterator[str]:
    """Yield how often a flag is set in each of its ranges of the metric that it is counted by."""
    values = [item.values for victim in attack.victims for item in victim.scores if metric.by in item.values]
    for low, high in metric.ranges:
        found = [own.get(metric.name) for own in values if low < own[metric.by] <= high]
        known = [value for value in found if value is not None]
        yield f"{sum(map(bool, known))} of {len(known)}" if known and len(known) == len(found) else NOTHING
