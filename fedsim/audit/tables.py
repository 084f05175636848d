"""CSV tables of an audit: a row per attacked example, and a row per defense."""

from __future__ import annotations

from typing import Any

from fedsim.audit import evidence, scoring, table_cells, verdict
from fedsim.audit.record import AuditArm, AuditRecord
from fedsim.core.metric import Metric
from fedsim.core.sanitize import csv_table
from fedsim.metrics.success import Rule
from fedsim.record.store import RunFolder

IMAGES = "images.csv"
DEFENSES = "defenses.csv"
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


def write(record: AuditRecord, folder: RunFolder) -> None:
    """Write both tables as CSV."""
    folder.write(IMAGES, csv_table(_image_columns(record), images(record)))
    folder.write(DEFENSES, csv_table(DEFENSE_COLUMNS, defenses(record)))


def _metrics(record: AuditRecord) -> list[Metric]:
    """Return the metrics of the tables: displayed example metrics, other example metrics, then target metrics."""
    chosen = [metric for metric in scoring.metrics_of(record.noun) if metric.tables == "all"]
    chosen += [column.metric for column in table_cells.target_columns(record)]
    return sorted(chosen, key=lambda metric: not metric.shown)


def _image_columns(record: AuditRecord) -> tuple[str, ...]:
    names = (metric.column_name for metric in _metrics(record))
    return ("defense", "batch", "update", "image", "label", "guessed_label", *names, "recovered")


def images(record: AuditRecord) -> list[tuple[Any, ...]]:
    """Return a row per attacked example, and a row per update on which the attack failed."""
    tried = [("", arm) for arm in record.client]
    tried += [("control", record.control)] if record.control else []
    tried += [(arm.name, arm) for arm in record.defense_arms]
    rule, metrics = record.plan.scoring.rule, _metrics(record)
    rows: list[tuple[Any, ...]] = []
    for defense, arm in tried:
        numbered = list(enumerate(arm.victims, 1))
        rows += [
            (
                defense,
                arm.batch_size,
                number,
                item.index,
                item.label,
                item.guessed_label,
                *(item.values.get(metric.name) for metric in metrics),
                rule.has_succeeded(item),
            )
            for number, victim in numbered
            for item in victim.scores
        ]
        blanks = (None,) * (3 + len(metrics))
        failed = [number for number, victim in numbered if victim.failure is not None]
        rows += [(defense, arm.batch_size, number, *blanks, "failed") for number in failed]
    return rows


def defenses(record: AuditRecord) -> list[tuple[Any, ...]]:
    """Return a row of the control, then a row per defense."""
    rows: list[tuple[Any, ...]] = []
    if record.control is not None:
        rows.append(("control", *_search(record.control, record.plan.scoring.rule), *[""] * 11))
    for arm in record.defense_arms:
        lost = arm.cost.accuracy_loss if arm.cost else None
        rows.append(
            (
                arm.name,
                *_search(arm, record.plan.scoring.rule),
                *((lost.value, lost.low, lost.high, lost.n) if lost else [""] * 4),
                *((arm.cost.loss_change, arm.cost.slowdown) if arm.cost else [""] * 2),
                max((stated.epsilon for stated in arm.guarantees), default=""),
                "undecided" if arm.failure else table_cells.format_policy_state(record, arm),
                " ".join(verdict.broken_by(record, arm)),
                "; ".join(verdict.missing_evidence(record, arm)),
                arm.failure,
            )
        )
    return rows


def _search(arm: AuditArm, rule: Rule) -> tuple[Any, ...]:
    """Return the cells of attacked updates, iterations, recovered share, and the ideal attacker's result."""
    victims, share = arm.victims, arm.recovered_share
    if not victims:
        return ("",) * 11
    return (
        arm.batch_size,
        len(victims),
        sum(len(victim.scores) for victim in victims),
        evidence.iterations(victims),
        evidence.restarts(victims),
        evidence.count_converged(victims),
        *((share.value, share.low, share.high) if share else ("failed" if arm.is_unknown else "", "", "")),
        *("" if figure is None else figure for figure in evidence.ideal(victims, rule)[:2]),
    )
