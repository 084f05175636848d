"""An audit as tables: one row per attacked image, one row per defense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedsim.audit import evidence, verdict, wording
from fedsim.audit.record import AuditRecord, Inspection
from fedsim.core import registry
from fedsim.core.metric import Metric
from fedsim.core.plain import csv_table
from fedsim.record.store import write_whole
from fedsim.scenario import Scoring

IMAGES = "images.csv"
DEFENSES = "defenses.csv"
FILES = (IMAGES, DEFENSES)
DEFENSE_COLUMNS = (
    "defense",
    "batch",
    "updates",
    "images",
    "iterations",
    "restarts",
    "converged",
    "recovered_share",
    "recovered_low",
    "recovered_high",
    "ceiling_psnr",
    "ceiling_success",
    "accuracy_loss",
    "accuracy_loss_low",
    "accuracy_loss_high",
    "test_examples",
    "loss_change",
    "slowdown",
    "epsilon",
    "keeps_policy",
    "breaks",
    "undecided",
    "failure",
)


def write(record: AuditRecord, folder: Path) -> None:
    """Write both as CSV."""
    write_whole(folder / IMAGES, csv_table(_image_columns(record.noun), images(record)))
    write_whole(folder / DEFENSES, csv_table(DEFENSE_COLUMNS, defenses(record)))


def _metrics(noun: str) -> list[Metric]:
    """Return the metrics of examples that tables have, those that people are shown first."""
    known = registry.every_metric().values()
    chosen = [metric for metric in known if metric.over == "item" and metric.noun == noun and metric.tables == "all"]
    return sorted(chosen, key=lambda metric: not metric.shown)


def _image_columns(noun: str) -> tuple[str, ...]:
    names = (metric.in_tables for metric in _metrics(noun))
    return ("defense", "batch", "update", "image", "label", "guessed_label", *names, "recovered")


def images(record: AuditRecord) -> list[tuple[Any, ...]]:
    """Return one row per attacked image, and one per update on which the attack failed."""
    tried = [("", inspection) for inspection in record.inspections]
    if record.control is not None:
        tried.append(("control", record.control))
    tried += [(trial.name, trial.inspection) for trial in record.trials if trial.inspection is not None]
    return [
        row
        for defense, inspection in tried
        for row in (*_rows(record, defense, inspection), *_failed_rows(record, defense, inspection))
    ]


def defenses(record: AuditRecord) -> list[tuple[Any, ...]]:
    """Return a row of the control, then one row per defense."""
    rows: list[tuple[Any, ...]] = []
    if record.control is not None:
        rows.append(("control", *_search(record.control, record.plan.scoring), *[""] * 11))
    for trial in record.trials:
        lost = trial.accuracy_loss
        rows.append(
            (
                trial.name,
                *_search(trial.inspection, record.plan.scoring),
                *((lost.value, lost.low, lost.high, lost.n) if lost else [""] * 4),
                trial.loss_change if trial.loss_change is not None else "",
                trial.slowdown if trial.slowdown is not None else "",
                max((stated.epsilon for stated in trial.guarantees), default=""),
                "undecided" if trial.failure else wording.kept(record, trial),
                " ".join(verdict.broken_by(record, trial)),
                "; ".join(verdict.undecided(record, trial)),
                trial.failure or "",
            )
        )
    return rows


def _search(inspection: Inspection | None, scoring: Scoring) -> tuple[Any, ...]:
    """Return the attacked updates, iterations, recovered share, and what the ideal attacker reaches."""
    if inspection is None:
        return ("",) * 11
    share = inspection.summary.success if inspection.summary else None
    return (
        inspection.batch_size,
        len(inspection.victims),
        sum(len(victim.scores) for victim in inspection.victims),
        inspection.iterations,
        evidence.restarts(inspection),
        evidence.converged(inspection),
        *((share.value, share.low, share.high) if share else ("failed" if inspection.is_unknown else "", "", "")),
        *("" if figure is None else figure for figure in evidence.ideal_figures(inspection, scoring)),
    )


def _rows(record: AuditRecord, defense: str, inspection: Inspection) -> list[tuple[Any, ...]]:
    rule, metrics = record.plan.scoring.rule, _metrics(record.noun)
    return [
        (
            defense,
            inspection.batch_size,
            number,
            item.index,
            item.label,
            item.guessed_label,
            *(item.values.get(metric.name) for metric in metrics),
            rule.has_succeeded(item),
        )
        for number, victim in enumerate(inspection.victims, 1)
        for item in victim.scores
    ]


def _failed_rows(record: AuditRecord, defense: str, inspection: Inspection) -> list[tuple[Any, ...]]:
    blanks = (None,) * (3 + len(_metrics(record.noun)))
    return [
        (defense, inspection.batch_size, number, *blanks, "failed")
        for number, victim in enumerate(inspection.victims, 1)
        if victim.failure is not None
    ]
