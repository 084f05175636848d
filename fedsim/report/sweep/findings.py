"""Findings of questions by setting: the mean over several seeds, or the value and interval of a single seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from fedsim.core.metric import Metric
from fedsim.metrics.comparison import mean_over_seeds
from fedsim.record import Finding, Interval, QuestionInfo
from fedsim.report.document import Table, TableCell, TableRow, number
from fedsim.report.sweep.gathered import SweepRecords, SweepSetting
from fedsim.report.tables.figures import figure
from fedsim.report.tables.findings import chance_of, count_of, format_extra_metrics, p_of, tags_of


def findings_tables(sweep: SweepRecords) -> list[tuple[QuestionInfo, Table]]:
    """Return a table per question; each row states its number of seeds."""
    rows = [(question, list(_rows(sweep, question.name))) for question in sweep.questions.values()]
    return [(question, _table(question, group)) for question, group in rows if group]


def _table(question: QuestionInfo, rows: Sequence[TableRow]) -> Table:
    numbers = map(number, ("found", question.baseline, "p", "n", "seeds"))
    headings = ("setting", "attack", "of what", "figure", *numbers, "beside it")
    return Table.of(question.title, headings, rows, is_sortable=False)


def mean_finding(findings: Sequence[Finding], declared: Mapping[str, Metric], confidence: float) -> Finding:
    """Return the mean finding of several seeds with Student's interval; its p-value is dropped.

    Intervals are clipped to the limits of their metrics in `declared`. With fewer than two values, the finding with a
    value, otherwise the first finding, is returned unchanged.
    """
    valued = [finding for finding in findings if finding.value is not None]
    if len(valued) < 2:  # noqa: PLR2004 - a mean needs two seeds
        return (valued or list(findings))[0]
    chances = [finding.chance_level for finding in valued if finding.chance_level is not None]
    figures = [{name: value for name, value in finding.figures.items() if value is not None} for finding in valued]
    means = {
        name: mean_over_seeds([seed[name].value for seed in figures], confidence, declared[name].limits)
        for name in figures[0]
        if all(name in seed for seed in figures)
    }
    value = means.pop(valued[0].metric)
    chance = fmean(chances) if chances else None
    invalid = next((finding.invalid for finding in valued if finding.invalid), "")
    mean = {"value": value, "chance_level": chance, "extra_metrics": means, "p_value": None, "invalid": invalid}
    return valued[0].model_copy(update=mean)


def _rows(sweep: SweepRecords, question: str) -> Iterator[TableRow]:
    declared = sweep.judge.metrics_by_name
    for setting in sweep.settings:
        for alike in group_by_label(setting, question):
            mean = mean_finding(alike, declared, sweep.judge.scoring.confidence)
            metric = declared[mean.metric]
            yield TableRow.of(
                setting.name,
                TableCell(mean.label, tags=tags_of(mean), notes=(f"failed: {mean.failure}",) if mean.failure else ()),
                mean.scope_in_words,
                metric.title,
                figure(mean.value, metric),
                chance_of(mean, metric),
                p_of(mean),
                count_of(mean),
                f"{len(alike)}",
                format_extra_metrics(mean, declared),
            )


def worst_figure(setting: SweepSetting, metric: str, confidence: float) -> Interval | None:
    """Return the largest mean over seeds of a metric among attacks; None if no attack has it or a value is invalid."""
    by_attack: dict[str, list[Interval]] = {}
    for finding in (finding for finding in setting.findings if finding.role == "attack"):
        value = finding.figures.get(metric)
        if value is not None and finding.invalid:
            return None
        if value is not None:
            by_attack.setdefault(finding.label, []).append(value)
    means = [
        figures[0] if len(figures) == 1 else mean_over_seeds([figure.value for figure in figures], confidence)
        for figures in by_attack.values()
    ]
    return max(means, key=lambda mean: mean.value, default=None)


def group_by_label(setting: SweepSetting, question: str) -> list[list[Finding]]:
    """Return the findings of a question grouped by label and metric, so that a group differs only in the seed."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in (finding for finding in setting.findings if finding.question == question):
        alike.setdefault((finding.label, finding.metric), []).append(finding)
    return list(alike.values())
