"""Tables of metrics that only some runs have, such as metrics against composites."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.core.metric import Metric
from fedsim.record import ArmRecord, AttackFinding, RunRecord
from fedsim.report.document import Heading, RowGroup, Table, TableCell, TableRow, number
from fedsim.report.tables.attacks import attacks_of
from fedsim.report.tables.figures import NOTHING, figure, heading_of
from fedsim.report.verdict import Column, RunJudge


def metric_tables(record: RunRecord, judge: RunJudge) -> list[Table]:
    """Return a table of attacks by arm for every table title that a declared metric names."""
    attacks = attacks_of(record)
    titles = dict.fromkeys(metric.table for metric in judge.metrics_by_name.values() if metric.table)
    return [_table(record, judge, title, columns) for title in titles if (columns := judge.columns(attacks, title))]


def _table(record: RunRecord, judge: RunJudge, title: str, columns: list[Column]) -> Table:
    ranges = (
        number(f"{judge.metrics_by_name[column.metric.by].title} {low} to {high}")
        for column in columns
        for low, high in column.metric.ranges
    )
    groups = (RowGroup(arm.name, tuple(_rows(arm, judge, columns))) for arm in record.arms)
    headings = (Heading("attack"), *map(heading_of, columns), *ranges)
    return Table(title, headings, tuple(group for group in groups if group.rows), group_heading="arm")


def _rows(arm: ArmRecord, judge: RunJudge, columns: list[Column]) -> Iterator[TableRow]:
    for attack in arm.attacks:
        if any(column.name in attack.extra_metrics for column in columns):
            figures = (figure(attack.extra_metrics.get(column.name), column.metric) for column in columns)
            counts = (TableCell(count) for column in columns for count in counts_of(attack, column.metric))
            yield TableRow((TableCell(attack.label), *figures, *counts))


def counts_of(attack: AttackFinding, metric: Metric) -> Iterator[str]:
    """Yield how often a flag is set, per range of the metric that groups it."""
    items = [item.values for victim in attack.victims for item in victim.scores if metric.by in item.values]
    for low, high in metric.ranges:
        flags = [values.get(metric.name) for values in items if low < values[metric.by] <= high]
        known = [flag for flag in flags if flag is not None]
        yield f"{sum(map(bool, known))} of {len(known)}" if known and len(known) == len(flags) else NOTHING
