"""What the traces of generations gave away: a table for people, a sentence an arm, and the rows of a CSV file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedsim.core.metric import Metric
from fedsim.experiment.sweep.traces import COLUMNS, findings
from fedsim.record import ArmRecord, GenerationRecord, RunRecord, TraceFinding
from fedsim.report.tables.figures import NOTHING, Estimate, estimate
from fedsim.report.verdict import Sentence, bounds

QUESTIONS = {
    "prompt": "Which prompt?",
    "member": "Trained on or not?",
    "planted": "What was planted?",
    "bits": "How many bits about the prompt?",
    "drawn": "What was drawn?",
}
CSV_COLUMNS = tuple(COLUMNS)


@dataclass(frozen=True)
class Told:
    """One finding; `cost` says what a mitigation takes, `reason` why there is no figure."""

    label: str
    role: str
    view: str
    figure: str
    found: Estimate
    chance: str
    n: str
    p: str
    cost: str
    reason: str


@dataclass(frozen=True)
class Answers:
    """All findings about one question."""

    question: str
    rows: tuple[Told, ...]


@dataclass(frozen=True)
class Spoken:
    """What the model of one arm wrote, in a sentence, and what that gave away.

    `doubts` names controls that did not do what they must.
    """

    arm: str
    told: str
    doubts: str
    answers: tuple[Answers, ...]


def generations(record: RunRecord) -> list[Spoken]:
    """Return what was found of every arm whose model wrote."""
    declared = record.declared
    return [
        Spoken(arm.name, _summary(arm.generation), _doubts(arm.generation), tuple(_answers(arm.generation, declared)))
        for arm in record.arms
        if arm.generation is not None
    ]


def trace_rows(record: RunRecord) -> Iterator[tuple[Any, ...]]:
    """Yield a row of plain values for every finding, in the order of `CSV_COLUMNS`."""
    for row in findings(record):
        yield tuple(row.values())


def trace_sentences(record: RunRecord) -> list[Sentence]:
    """Return one sentence for every arm whose traces were attacked: the finding furthest above chance."""
    found = [(arm, own) for arm in record.arms if (own := _strongest(arm)) is not None]
    return [_sentence(arm, own, record.declared[own.metric]) for arm, own in found]


def _strongest(arm: ArmRecord) -> TraceFinding | None:
    attacks = arm.generation.findings if arm.generation else ()
    tried = [own for own in attacks if own.role == "attack" and own.name and own.found is not None]
    order = list(QUESTIONS)
    return max(tried, key=lambda own: (is_above(own), not own.mitigation, -order.index(own.question)), default=None)


def is_above(own: TraceFinding) -> bool:
    """Tell whether a finding is above its chance level beyond its interval, and beyond a permutation test."""
    if own.found is None or own.chance is None or own.found.low is None:
        return False
    return own.found.low > own.chance and (own.p is None or own.p <= 0.05)  # noqa: PLR2004 - one in twenty


def _sentence(arm: ArmRecord, own: TraceFinding, metric: Metric) -> Sentence:
    assert own.found is not None, "chosen among those that have a figure"
    assert arm.generation is not None, "chosen among arms whose model wrote"
    hidden = f" behind {own.mitigation}" if own.mitigation else ""
    before = f"Traces of decoder {arm.generation.decoder}, view {own.view}{hidden}: "
    if not is_above(own):
        return Sentence(arm.name, before, "no attack is above chance", ", which is no guarantee.", False)
    interval = f", interval {bounds(own.found, metric.scale, metric.digits)}" if own.found.low is not None else ""
    chance = "" if own.chance is None else f"; chance {metric.format(own.chance)}"
    finding = f"{metric.title} {metric.format(own.found.value)}"
    return Sentence(arm.name, before, finding, f" with {own.name} (n = {own.found.n}{interval}{chance}).", True)


def _summary(own: GenerationRecord) -> str:
    settings = ", ".join(f"{key} = {value}" for key, value in own.settings.items() if value not in ("", None))
    decoder = f"Decoder {own.decoder}{f' ({settings})' if settings else ''}"
    if own.failure is not None:
        return f"{decoder} wrote nothing: {own.failure}"
    whose = "the global model" if own.model == "global" else "the client's own model"
    endings = ", ".join(f"{count} by {ending}" for ending, count in own.endings.items())
    pace = own.tokens_a_step
    things = "samples" if any(one.question == "drawn" for one in own.findings) else "texts"
    told = "" if pace is None else f", {pace.value:.2f} tokens a step ({bounds(pace, 1, 2)})"
    reasons = f" {' '.join(own.reasons)}" if own.reasons else ""
    return f"{decoder}, {whose}: {own.texts:,} {things}{told}; ended {endings}.{reasons}"


def _doubts(own: GenerationRecord) -> str:
    failed = [one.label for one in own.findings if one.role == "must succeed" and not is_above(one)]
    strange = [one.label for one in own.findings if one.role == "chance" and is_above(one)]
    told = [f"not above chance, though it must be: {'; '.join(failed)}"] if failed else []
    told += [f"above chance, though there is nothing to find: {'; '.join(strange)}"] if strange else []
    return ". ".join(own[0].upper() + own[1:] for own in told)


def _answers(own: GenerationRecord, declared: dict[str, Metric]) -> Iterator[Answers]:
    for question, title in QUESTIONS.items():
        asked = [finding for finding in own.findings if finding.question == question]
        rows = tuple(told(finding, declared[finding.metric]) for finding in asked)
        if rows:
            yield Answers(title, rows)


def told(own: TraceFinding, metric: Metric) -> Told:
    """Return a finding for people."""
    cost = NOTHING
    if own.longer is not None and own.larger is not None:
        cost = f"{own.longer:.2f} x steps, {own.larger:.2f} x tokens"
    return Told(
        label=own.label,
        role="" if own.role == "attack" else own.role,
        view=own.view,
        figure=metric.title,
        found=estimate(own.found, metric.scale, metric.digits, "%" if metric.form == "percent" else ""),
        chance=NOTHING if own.chance is None else f"{own.chance * metric.scale:.{metric.digits}f}{metric.suffix}",
        n=NOTHING if own.found is None else f"{own.found.n:,}",
        p=NOTHING if own.p is None else f"{own.p:.2f}",
        cost=cost,
        reason=own.failure or "",
    )
