"""What questions found, for people: one table a question, one row a finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fedsim.core.metric import Metric
from fedsim.metrics.evidence import at_least
from fedsim.record import SIGNIFICANT, ArmRecord, Finding, Interval, QuestionAsked, RunRecord
from fedsim.report.tables.figures import NOTHING, Estimate, estimate
from fedsim.report.verdict import Sentence, bounds

_BY_LUCK = 0.025  # how often a 95 % interval lies above the truth
_MOST_EXAMPLES = 200  # rows of a table of examples on a page


@dataclass(frozen=True)
class FindingRow:
    """One finding; `more` has columns of its own, `besides` is words, and `reason` says why there is no figure."""

    group: str
    label: str
    role: str
    about: str
    figure: str
    value: Estimate
    chance: str
    p: str
    n: str
    more: tuple[Estimate, ...]
    besides: str
    reason: str


@dataclass(frozen=True)
class Examples:
    """A table of single examples behind findings of one arm."""

    arm: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Answers:
    """All findings about one question.

    Attributes:
        headings: of the figures that every finding has beside its own.
        has_p: whether a permutation test was made of any.
        has_curves: whether any left a curve of false alarms and hits.
        notes: (arm, sentence) of findings that explain themselves.
        doubts: controls that did not do what they must, by arm.
        examples: tables of single examples that hold text.
    """

    question: QuestionAsked
    headings: tuple[str, ...]
    has_p: bool
    has_curves: bool
    rows: tuple[FindingRow, ...]
    notes: tuple[tuple[str, str], ...]
    doubts: tuple[str, ...]
    examples: tuple[Examples, ...] = ()

    @property
    def has_besides(self) -> bool:
        """Whether a row has further figures in words."""
        return any(row.besides for row in self.rows)

    @property
    def has_controls(self) -> bool:
        """Whether a row is a control."""
        return any(row.role not in ("", "context") for row in self.rows)

    @property
    def groups(self) -> list[tuple[str, list[FindingRow]]]:
        """The rows of each arm, in order."""
        return [(name, list(rows)) for name, rows in groupby(self.rows, key=lambda row: row.group)]


def answers(record: RunRecord) -> list[Answers]:
    """Return what was found of every question that was asked."""
    return [own for asked in record.questions if (own := _answers(record, asked)).rows or own.notes]


def finding_sentences(record: RunRecord) -> list[Sentence]:
    """Return one sentence for every question of an arm: its telling finding, or that none is above chance."""
    pairs = [(arm, asked) for arm in record.arms for asked in record.questions]
    return [own for arm, asked in pairs if (own := _sentence(arm, asked, record.declared)) is not None]


def alarms(record: RunRecord) -> list[str]:
    """Return what must stand above everything else, each with its arm."""
    return [f"{arm.name}: {own.alarm}" for arm in record.arms for own in arm.findings if own.alarm]


def row(own: Finding, declared: Mapping[str, Metric], group: str, columns: Sequence[str] = ()) -> FindingRow:
    """Return a finding for people.

    Args:
        own: the finding.
        declared: what metrics are, by name.
        group: whose it is: an arm, or a setting of a sweep.
        columns: metrics that have a column of their own.
    """
    metric = declared[own.metric]
    besides = [
        f"{declared[name].title} {declared[name].format(value.value)}"
        for name, value in own.more.items()
        if name not in columns
    ]
    return FindingRow(
        group=group,
        label=own.label,
        role="" if own.role == "attack" else own.role,
        about=own.about_in_words,
        figure=metric.title,
        value=figure(own.value, metric),
        chance=NOTHING if own.chance is None else metric.format(own.chance),
        p=NOTHING if own.p is None else f"{own.p:.2f}",
        n=NOTHING if own.value is None else f"{own.n:,}",
        more=tuple(figure(own.more.get(name), declared[name]) for name in columns),
        besides=", ".join(besides),
        reason=own.failure,
    )


def figure(value: Interval | None, metric: Metric) -> Estimate:
    """Return a figure as its metric is told."""
    return estimate(value, metric.scale, metric.digits, metric.suffix if metric.form != "number" else "")


def columns_of(findings: Sequence[Finding]) -> list[str]:
    """Return the metrics that all findings with a value have beside their own."""
    every = [own.more for own in findings if own.value is not None]
    return [name for name in every[0] if all(name in more for more in every)] if every else []


def doubts(findings: Sequence[Finding]) -> str:
    """Return controls that did not do what they must, as a sentence; empty where all did.

    Of many controls at chance some lie above it by luck; they are named where luck explains so many once in twenty.
    """
    failed = [own.label for own in findings if own.role == "must succeed" and not own.is_above_chance]
    controls = [own for own in findings if own.role == "chance" and own.value is not None]
    strange = [own.label for own in controls if own.is_above_chance]
    if at_least(len(strange), len(controls), _BY_LUCK) > SIGNIFICANT:
        strange = []
    parts = [f"Not above chance, though it must be: {'; '.join(failed)}."] if failed else []
    parts += [f"Above chance, though there is nothing to find: {'; '.join(strange)}."] if strange else []
    return " ".join(parts)


def _answers(record: RunRecord, asked: QuestionAsked) -> Answers:
    by_arm = [(arm, [own for own in arm.findings if own.question == asked.name]) for arm in record.arms]
    pairs = [(arm.name, own) for arm, findings in by_arm for own in findings]
    every = [own for _, own in pairs if own.role != "context"]
    columns = columns_of(every)
    several = len(by_arm) > 1
    return Answers(
        question=asked,
        headings=tuple(record.declared[name].title for name in columns),
        has_p=any(own.p is not None for own in every),
        has_curves=any("fpr" in arm.items.get(own.items, {}) for arm, found in by_arm for own in found),
        rows=tuple(row(own, record.declared, name, columns) for name, own in pairs),
        notes=tuple((name, own.note) for name, own in pairs if own.note),
        doubts=tuple(f"{f'{arm.name}: ' if several else ''}{told}" for arm, own in by_arm if (told := doubts(own))),
        examples=tuple(_examples(by_arm)),
    )


def _examples(by_arm: Sequence[tuple[ArmRecord, Sequence[Finding]]]) -> Iterator[Examples]:
    """Yield the tables behind findings that hold text: what was planted, and what was written."""
    for arm, findings in by_arm:
        for name in dict.fromkeys(own.items for own in findings if own.items):
            table = arm.items[name]
            if "text" in table:
                rows = list(zip(*table.values(), strict=True))[:_MOST_EXAMPLES]
                yield Examples(arm.name, tuple(table), tuple(tuple(map(_cell, cells)) for cells in rows))


def _cell(value: Any) -> str:
    if value is None:
        return NOTHING
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _sentence(arm: ArmRecord, asked: QuestionAsked, declared: Mapping[str, Metric]) -> Sentence | None:
    attacks = [own for own in arm.findings if own.question == asked.name and own.role == "attack"]
    if not attacks:
        return None
    tried = [own for own in attacks if own.value is not None]
    if not tried:
        labels = ", ".join(own.label for own in attacks)
        return Sentence(arm.name, f"{asked.title} ", "No attack gave a result", f" ({labels}).", False)
    own = _most_telling(tried, declared)
    metric = declared[own.metric]
    interval = f"{bounds(own.value, metric.scale, metric.digits)}{metric.suffix}" if own.value else ""
    chance = "" if own.chance is None else f"chance {metric.format(own.chance)}"
    measured = "; ".join(filter(None, (interval, chance, f"n = {own.n}")))
    if not own.is_above_chance:
        after = f"; the best is {own.label} ({measured}), which is no guarantee."
        return Sentence(arm.name, f"{asked.title} ", "No attack is above chance", after, False)
    assert own.value is not None, "it is above chance"
    told = f"{own.label}: {metric.title} {metric.format(own.value.value)}"
    return Sentence(arm.name, f"{asked.title} ", told, f" ({measured}).", True)


def _most_telling(tried: Sequence[Finding], declared: Mapping[str, Metric]) -> Finding:
    """Return the best finding by the metric of the first that is above chance, or else of the first."""
    first = next((own for own in tried if own.is_above_chance), tried[0])
    alike = [own for own in tried if own.metric == first.metric]
    sign = declared[first.metric].sign
    return max(alike, key=lambda own: (own.is_above_chance, sign * own.value.value if own.value else 0.0))
