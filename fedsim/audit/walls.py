"""Pictures of an audit: originals above guesses, the first images of the first updates, without selection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from fedsim.audit.record import ARRAYS, AuditRecord, Inspection
from fedsim.document import Wall, WallCell, WallRow
from fedsim.metrics.success import Rule
from fedsim.record import VictimRecord

MOST = 8  # pictures in a row
_COLOURS = 3

Pictures = Mapping[str, np.ndarray]


def read(folder: Path) -> Pictures:
    """Return the pictures of an audit by name; none where it kept none."""
    if not (folder / ARRAYS).exists():
        return {}
    with np.load(folder / ARRAYS, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def of_updates(record: AuditRecord, pictures: Pictures) -> Iterator[Wall]:
    """Yield a wall for every batch size that has pictures."""
    for inspection in record.inspections:
        rows = [_row(record, inspection, pictures, "guesses", "recovered by the attacker")]
        if inspection.is_scored:
            known = "known to the ideal attacker (white: all)"
            rows.insert(0, _row(record, inspection, pictures, "originals", "original"))
            rows.append(_row(record, inspection, pictures, "known", known))
        title = "captured update" if record.plan.is_captured else f"batch {inspection.batch_size}"
        yield from _wall(title, rows, inspection, pictures)


def of_defenses(record: AuditRecord, pictures: Pictures) -> Iterator[Wall]:
    """Yield the same images without and with every defense, except defenses that draw other batches."""
    control = record.control
    if control is None:
        return
    rows = [
        _row(record, control, pictures, "originals", "original"),
        _row(record, control, pictures, "guesses", "no further defense"),
        *(
            _row(record, trial.inspection, pictures, "guesses", trial.name)
            for trial in record.trials
            if trial.inspection is not None and trial.sampling == "passes"
        ),
    ]
    yield from _wall(f"batch {control.batch_size}, without and with each defense", rows, control, pictures)


def _wall(title: str, rows: list[WallRow], inspection: Inspection, pictures: Pictures) -> Iterator[Wall]:
    count = sum(len(pictures.get(f"{victim.arrays}/guesses", ())) for victim in inspection.victims)
    if count:
        which = f"The first {MOST} of {count}" if count > MOST else f"All {count}"
        note = f"{which} attacked images. A frame and ✓ mark those that count as recovered."
        yield Wall(title, (), tuple(row for row in rows if row.cells), note)


def _row(record: AuditRecord, inspection: Inspection, pictures: Pictures, kind: str, label: str) -> WallRow:
    return WallRow(label, tuple(islice(_cells(record, inspection, pictures, kind), MOST)), kind == "originals")


def _cells(record: AuditRecord, inspection: Inspection, pictures: Pictures, kind: str) -> Iterator[WallCell]:
    rule = record.plan.scoring.rule
    for number, victim in enumerate(inspection.victims, 1):
        for index, image in enumerate(pictures.get(f"{victim.arrays}/{kind}", ())):
            where = f"update {number}, image {index + 1}"
            if kind == "guesses" and index < len(victim.scores):
                yield _scored(victim, index, image, rule, f"Guess of {where}")
            else:
                what = {"known": "What the ideal attacker knows", "originals": "Original", "guesses": "Guess"}[kind]
                yield WallCell(in_colour(image), f"{what} of {where}")


def _scored(victim: VictimRecord, index: int, image: np.ndarray, rule: Rule, what: str) -> WallCell:
    item = victim.scores[index]
    shown = [metric for metric in rule.declared.values() if metric.spread and metric.name in item.values]
    scores = [metric.tell(item.values[metric.name]) for metric in shown]
    return WallCell(in_colour(image), f"{what}: {', '.join(scores)}", tuple(scores[:1]), rule.has_succeeded(item))


def in_colour(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) from (C, H, W); with neither 1 nor 3 channels, the first one in grey."""
    clipped = np.clip(np.nan_to_num(image), 0.0, 1.0)
    channels = clipped if len(clipped) == _COLOURS else np.repeat(clipped[:1], _COLOURS, axis=0)
    return channels.transpose(1, 2, 0)
