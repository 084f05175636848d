"""Findings of questions as text: a table per question, a row per finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fedsim.core.metric import Metric
from fedsim.judgement.outcome import binomial_tail
from fedsim.record import SIGNIFICANT, ArmFindings, ArmRecord, Finding, QuestionInfo, Record, RunRecord
from fedsim.report.document import Heading, RowGroup, Statement, Table, TableCell, TableRow, number
from fedsim.report.tables.figures import NOTHING, figure
from fedsim.report.verdict import bounds, with_bounds

_Column = tuple[Heading, Callable[[Finding], TableCell | str]]

_BY_LUCK = 0.025  # probability that a 95 % interval lies above the truth
_MOST_EXAMPLES = 200  # rows of a table of examples on a page


def questions(record: Record[Any, Any]) -> list[QuestionInfo]:
    """Return the questions with findings in the record."""
    return [
        question for question in record.questions if any(findings for _, findings in group_by_arm(record, question))
    ]


def group_by_arm(record: Record[Any, Any], question: QuestionInfo) -> list[tuple[ArmFindings, list[Finding]]]:
    """Return the findings of every arm about a question."""
    return [(arm, list(arm.findings_of(question.name))) for arm in record.arms]


def findings_table(record: Record[Any, Any], question: QuestionInfo) -> Table:
    """Return all findings about a question, grouped by arm.

    Metrics common to all findings have columns; others are listed as text. Columns without content are omitted.
    """
    arms = group_by_arm(record, question)
    columns = _columns(
        [finding for _, findings in arms for finding in findings], record.metrics_by_name, question.baseline
    )
    groups = (
        RowGroup(arm.name, tuple(_row(finding, columns) for finding in findings)) for arm, findings in arms if findings
    )
    headings = (Heading("attack"), *(heading for heading, _ in columns))
    return Table(question.title, headings, tuple(groups), group_heading="arm")


def _row(finding: Finding, columns: Sequence[_Column]) -> TableRow:
    label = TableCell(finding.label, tags=tags_of(finding))
    if finding.failure:
        return TableRow((label,), f"failed: {finding.failure}")
    return TableRow.of(label, *(cell(finding) for _, cell in columns))


def _columns(findings: Sequence[Finding], declared: Mapping[str, Metric], baseline: str) -> list[_Column]:
    """Return the columns after the label: heading, and cell of a finding."""
    telling = [finding for finding in findings if finding.role != "context"]
    names = columns_of(telling)
    columns: list[_Column] = [
        (Heading("figure"), lambda finding: declared[finding.metric].title),
        (number("found", keeps_interval=True), lambda finding: figure(finding.value, declared[finding.metric])),
        (number(baseline), lambda finding: chance_of(finding, declared[finding.metric])),
    ]
    if any(arm.p_value is not None for arm in telling):
        columns.append((number("p"), p_of))
    columns += [(number(declared[name].title), partial(_further, name, declared[name])) for name in names]
    columns.append((number("n"), count_of))
    columns.append((Heading("of what", is_extra=True), lambda finding: finding.scope_in_words))
    if any(format_extra_metrics(finding, declared, names) for finding in findings):
        columns.append(
            (Heading("beside it", is_extra=True), lambda finding: format_extra_metrics(finding, declared, names))
        )
    return columns


def _further(name: str, metric: Metric, finding: Finding) -> TableCell:
    return figure(finding.extra_metrics.get(name), metric)


def columns_of(findings: Sequence[Finding]) -> list[str]:
    """Return the additional metrics common to all findings with a value."""
    metrics = [finding.extra_metrics for finding in findings if finding.value is not None]
    return [name for name in metrics[0] if all(name in metric_names for metric_names in metrics)] if metrics else []


def tags_of(finding: Finding) -> tuple[str, ...]:
    """Return the role of a finding, unless it is an attack, and whether it is invalid."""
    role = () if finding.role == "attack" else (finding.role,)
    return (*role, "invalid") if finding.invalid else role


def chance_of(finding: Finding, metric: Metric) -> str:
    """Return the chance level of a finding, or a dash."""
    return NOTHING if finding.chance_level is None else metric.format(finding.chance_level)


def count_of(finding: Finding) -> str:
    """Return the sample size of a finding, or a dash."""
    return NOTHING if finding.value is None else f"{finding.n:,}"


def p_of(finding: Finding) -> str:
    """Return the p-value of a finding, or a dash."""
    return NOTHING if finding.p_value is None else f"{finding.p_value:.2f}"


def format_extra_metrics(finding: Finding, declared: Mapping[str, Metric], columns: Sequence[str] = ()) -> str:
    """Return the additional figures of a finding that have no column."""
    remaining = [(declared[name], value) for name, value in finding.extra_metrics.items() if name not in columns]
    return ", ".join(
        f"{metric.title} {with_bounds(metric.format(value.value), bounds(value, metric.scale, metric.digits))}"
        for metric, value in remaining
    )


def doubts(findings: Sequence[Finding]) -> str:
    """Return the controls that failed their purpose, as a sentence; empty if none did.

    Among many chance controls, some lie above chance by luck; they are named only if so many are unlikely under chance.
    """
    failed = [
        finding.label for finding in findings if finding.role == "positive-control" and not finding.is_above_chance
    ]
    controls = [finding for finding in findings if finding.role == "negative-control" and finding.value is not None]
    strange = [control.label for control in controls if control.is_above_chance]
    if binomial_tail(len(strange), len(controls), _BY_LUCK) > SIGNIFICANT:
        strange = []
    parts = [f"Not above chance, though it must be: {'; '.join(failed)}."] if failed else []
    parts += [f"Above chance although a negative control has nothing to find: {'; '.join(strange)}."] if strange else []
    return " ".join(parts)


def examples(record: Record[Any, Any], question: QuestionInfo) -> Iterator[tuple[str, Table]]:
    """Yield (arm, table) of single examples behind findings with text, such as planted and generated text."""
    for arm, findings in group_by_arm(record, question):
        for name in dict.fromkeys(finding.items for finding in findings if finding.items):
            items = arm.items[name]
            if "text" in items:
                rows = list(zip(*items.values(), strict=True))[:_MOST_EXAMPLES]
                cells = [TableRow.of(*map(_format_cell, row)) for row in rows]
                yield arm.name, Table.of(f"Single examples of {arm.name}", tuple(items), cells, is_sortable=False)


def _format_cell(value: Any) -> str:
    if value is None:
        return NOTHING
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def alarms(record: RunRecord) -> list[str]:
    """Return the alarms and invalid findings of a record, each with its arm."""
    return [f"{arm.name}: {alarm}" for arm in record.arms for finding in arm.findings for alarm in _alarms(finding)]


def _alarms(finding: Finding) -> Iterator[str]:
    if finding.alarm:
        yield finding.alarm
    if finding.invalid:
        yield f"{finding.label} is invalid: {finding.invalid}."


def finding_sentences(record: RunRecord) -> list[Statement]:
    """Return a statement per arm and question: its best finding, or that none is above chance."""
    pairs = [(arm, question) for arm in record.arms for question in record.questions]
    return [
        sentence
        for arm, question in pairs
        if (sentence := _sentence(arm, question, record.metrics_by_name)) is not None
    ]


def _sentence(arm: ArmRecord, question: QuestionInfo, declared: Mapping[str, Metric]) -> Statement | None:
    attacks = [finding for finding in arm.findings_of(question.name) if finding.role == "attack"]
    if not attacks:
        return None
    before = f"{question.title} "
    tried = [attack for attack in attacks if attack.value is not None and not attack.invalid]
    invalid = [attack for attack in attacks if attack.invalid]
    if invalid and not tried:
        reasons = "; ".join(dict.fromkeys(f"{finding.label}: {finding.invalid}" for finding in invalid))
        return Statement(arm.name, "No finding is valid", "caution", before, f" ({reasons}).")
    if not tried:
        labels = ", ".join(attack.label for attack in attacks)
        return Statement(arm.name, "No attack gave a result", before=before, after=f" ({labels}).")
    best = _most_telling(tried, declared)
    metric = declared[best.metric]
    interval = f"{bounds(best.value, metric.scale, metric.digits)}{metric.suffix}" if best.value else ""
    by_chance = "" if best.chance_level is None else f"chance {metric.format(best.chance_level)}"
    measured = "; ".join(filter(None, (interval, by_chance, f"n = {best.n}")))
    if not best.is_above_chance:
        after = f"; the best is {best.label} ({measured}), which is no guarantee."
        return Statement(arm.name, question.null_statement, before=before, after=after)
    assert best.value is not None, "it is above chance"
    strong = f"{best.label}: {metric.title} {metric.format(best.value.value)}"
    return Statement(arm.name, strong, "recovered", before, f" ({measured}).")


def _most_telling(tried: Sequence[Finding], declared: Mapping[str, Metric]) -> Finding:
    """Return the best finding by the metric of the first finding above chance, or of the first finding if none is."""
    first = next((attack for attack in tried if attack.is_above_chance), tried[0])
    alike = [attack for attack in tried if attack.metric == first.metric]
    sign = declared[first.metric].sign
    return max(
        alike, key=lambda finding: (finding.is_above_chance, sign * finding.value.value if finding.value else 0.0)
    )
