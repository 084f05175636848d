"""What questions found, setting by setting: of several seeds their mean, of one seed that of its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from fedsim.core.metric import Metric
from fedsim.document import Table, TableCell, TableRow, number
from fedsim.metrics.comparison import mean_over_seeds
from fedsim.record import Finding, Interval, QuestionAsked
from fedsim.report.sweep.gathered import Setting, Sweep
from fedsim.report.tables.figures import figure
from fedsim.report.tables.findings import chance_of, count_of, in_words, p_of, tags_of

_NUMBERS = map(number, ("found", "chance", "p", "n", "seeds"))
_HEADINGS = ("setting", "attack", "of what", "figure", *_NUMBERS, "beside it")


def findings_tables(sweep: Sweep) -> list[tuple[QuestionAsked, Table]]:
    """Return a table for every question that was asked; each row says on how many seeds it rests."""
    rows = [(question, list(_rows(sweep, question.name))) for question in sweep.questions.values()]
    return [(question, Table.of(question.title, _HEADINGS, some, is_sortable=False)) for question, some in rows if some]


def mean_finding(findings: Sequence[Finding], declared: Mapping[str, Metric], confidence: float) -> Finding:
    """Return one finding for several seeds, with Student's interval; a p-value of one seed says nothing of all.

    Intervals end where the values of their metrics in `declared` end.
    """
    valued = [own for own in findings if own.value is not None]
    if len(valued) < 2:  # noqa: PLR2004 - of one seed there is no mean
        return (valued or list(findings))[0]
    chances = [own.chance for own in valued if own.chance is not None]
    more = {
        name: _within(_mean([own.more[name] for own in valued], confidence), declared[name])
        for name in valued[0].more
        if all(name in own.more for own in valued)
    }
    mean = _mean([own.value for own in valued if own.value is not None], confidence)
    value = _within(mean, declared[valued[0].metric])
    chance = fmean(chances) if chances else None
    return valued[0].model_copy(update={"value": value, "chance": chance, "more": more, "p": None})


def _rows(sweep: Sweep, question: str) -> Iterator[TableRow]:
    declared = sweep.judge.declared
    for setting in sweep.settings:
        for alike in by_label(setting, question):
            mean = mean_finding(alike, declared, sweep.judge.scoring.confidence)
            yield _row(setting.name, mean, len(alike), declared)


def _row(setting: str, mean: Finding, seeds: int, declared: Mapping[str, Metric]) -> TableRow:
    metric = declared[mean.metric]
    return TableRow.of(
        setting,
        TableCell(mean.label, tags=tags_of(mean), notes=(f"failed: {mean.failure}",) if mean.failure else ()),
        mean.about_in_words,
        metric.title,
        figure(mean.value, metric),
        chance_of(mean, metric),
        p_of(mean),
        count_of(mean),
        f"{seeds}",
        in_words(mean, declared),
    )


def worst_figure(setting: Setting, metric: str, confidence: float) -> Interval | None:
    """Return the largest figure of a metric that an attack reached, over seeds; None where none was measured."""
    found: dict[str, list[Interval]] = {}
    for cell in setting.cells:
        for own in cell.findings:
            figure = {own.metric: own.value, **own.more}.get(metric)
            if own.role == "attack" and figure is not None:
                found.setdefault(own.label, []).append(figure)
    means = [own[0] if len(own) == 1 else _mean(own, confidence) for own in found.values()]
    return max(means, key=lambda own: own.value, default=None)


def by_label(setting: Setting, question: str) -> list[list[Finding]]:
    """Return the findings about a question that differ in nothing but the seed."""
    found: dict[tuple[str, str], list[Finding]] = {}
    for cell in setting.cells:
        for own in cell.findings:
            if own.question == question:
                found.setdefault((own.label, own.metric), []).append(own)
    return list(found.values())


def _mean(values: Sequence[Interval], confidence: float) -> Interval:
    return mean_over_seeds([own.value for own in values], confidence)


def _within(mean: Interval, metric: Metric) -> Interval:
    """Return a mean with an interval that holds possible values alone."""
    least, most = metric.limits
    low = mean.low if mean.low is None or least is None else max(mean.low, least)
    high = mean.high if mean.high is None or most is None else min(mean.high, most)
    return mean.model_copy(update={"low": low, "high": high})
