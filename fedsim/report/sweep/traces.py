"""What traces of generations gave away, setting by setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedsim.metrics.comparison import mean_over_seeds
from fedsim.record import Interval, TraceFinding
from fedsim.report.sweep.gathered import Setting, Sweep
from fedsim.report.tables.generations import QUESTIONS, Told, told


@dataclass(frozen=True)
class Row:
    """A finding of one setting; its figure is the mean over seeds, and `seeds` says of how many."""

    setting: str
    decoder: str
    told: Told
    seeds: int


@dataclass(frozen=True)
class Table:
    """All findings about one question."""

    question: str
    rows: tuple[Row, ...]


def traces(sweep: Sweep) -> list[Table]:
    """Return a table for every question that was asked.

    Of several seeds the figure is their mean, with Student's interval over seeds; of one seed, that of its record.
    """
    rows = {question: tuple(_rows(sweep, question)) for question in QUESTIONS}
    return [Table(QUESTIONS[question], own) for question, own in rows.items() if own]


def _rows(sweep: Sweep, question: str) -> Iterator[Row]:
    for setting in sweep.settings:
        for decoder, own in _by_label(setting, question).items():
            metric = sweep.judge.declared[own[0].metric]
            yield Row(setting.name, decoder[0], told(_mean(own, sweep.judge.scoring.confidence), metric), len(own))


def _by_label(setting: Setting, question: str) -> dict[tuple[str, str], list[TraceFinding]]:
    """Return the findings about a question by decoder and label, one a seed."""
    found: dict[tuple[str, str], list[TraceFinding]] = {}
    for cell in setting.cells:
        for own in cell.findings:
            if own.question == question:
                found.setdefault((cell.decoder, own.label), []).append(own)
    return found


def _mean(found: list[TraceFinding], confidence: float) -> TraceFinding:
    """Return one finding for several seeds; a p-value of one seed says nothing of all of them."""
    first = next((own for own in found if own.found is not None), found[0])
    values = [own.found.value for own in found if own.found is not None]
    if len(values) < 2:  # noqa: PLR2004 - of one seed there is no mean
        return first
    mean: Interval = mean_over_seeds(values, confidence)
    chances = [own.chance for own in found if own.chance is not None]
    chance = sum(chances) / len(chances) if chances else None
    return first.model_copy(update={"found": mean, "chance": chance, "p": None, "longer": None, "larger": None})
