"""Image grids of an audit: originals above guesses, the first images of the first updates, without selection."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from fedsim.audit.record import ARRAYS, AuditArm, AuditRecord
from fedsim.audit.verdict import first_named
from fedsim.core.nets.tensor_files import read_arrays
from fedsim.metrics.success import Rule
from fedsim.record import ItemScore
from fedsim.report.document import ImageGrid, WallCell, WallRow
from fedsim.report.image_grid import MOST, TICKS, Arrays, pixels_of

_WHAT = {"known": "The ideal attacker's estimate", "originals": "Original", "guesses": "Guess"}
_ROUNDING = 1e-3  # tolerance of the known share of a pixel, from 0 to 1


def read(folder: Path) -> Arrays:
    """Return the pictures of an audit by name; empty if the audit kept none."""
    return read_arrays(folder / ARRAYS) if (folder / ARRAYS).exists() else {}


def update_grids(record: AuditRecord, pictures: Arrays) -> Iterator[ImageGrid]:
    """Yield a grid per batch size with pictures, beginning with the batch size that the verdict names first."""
    labels = {
        "originals": "original",
        "guesses": "guess",
        "known": "known to the ideal attacker (white: all of a pixel)",
    }
    first = first_named(record)
    for arm in sorted(record.client, key=lambda arm: arm is not first):
        rows = [_row(record, arm, pictures, kind, label) for kind, label in labels.items()]
        title = "captured update" if record.is_captured else f"batch {arm.batch_size}"
        yield from _wall(title, rows, arm, pictures)


def defense_grids(record: AuditRecord, pictures: Arrays) -> Iterator[ImageGrid]:
    """Yield a grid of the same images without and with each defense.

    Defenses with Poisson sampling are omitted, because they draw other batches.
    """
    control = record.control
    if control is None:
        return
    alike = [arm for arm in record.defense_arms if arm.sampling == "shuffle"]
    rows = [
        _row(record, control, pictures, "originals", "original"),
        _row(record, control, pictures, "guesses", "no further defense"),
        *(_row(record, arm, pictures, "guesses", arm.name) for arm in alike),
    ]
    yield from _wall(f"batch {control.batch_size}, without and with each defense", rows, control, pictures)


def _wall(title: str, rows: list[WallRow], arm: AuditArm, pictures: Arrays) -> Iterator[ImageGrid]:
    count = sum(len(pictures.get(f"{victim.arrays}/guesses", ())) for victim in arm.victims)
    shown = tuple(row for row in rows if row.cells)
    if shown:
        caption = f"The first {MOST} of {count} attacked images" if count > MOST else "All that was attacked"
        yield ImageGrid(title, (), shown, f"{caption}. Framed and ticked by the same rule. {TICKS}")


def _row(record: AuditRecord, arm: AuditArm, pictures: Arrays, kind: str, label: str) -> WallRow:
    return WallRow(label, tuple(islice(_cells(record, arm, pictures, kind), MOST)), kind == "originals")


def _cells(record: AuditRecord, arm: AuditArm, pictures: Arrays, kind: str) -> Iterator[WallCell]:
    rule = record.plan.scoring.rule
    for number, victim in enumerate(arm.victims, 1):
        name = f"{victim.arrays}/{kind}"
        for index in range(len(pictures.get(name, ()))):
            pixels, position = pixels_of(pictures, name, index), f"update {number}, image {index + 1}"
            if pixels is None:
                return
            if kind == "guesses" and index < len(victim.scores):
                yield _guess_cell(victim.scores[index], pixels, rule, f"Guess of {position}")
            elif kind == "known" and pixels.min() > 1.0 - _ROUNDING:
                yield WallCell(None, text="every pixel")
            else:
                yield WallCell(pixels, f"{_WHAT[kind]} of {position}")


def _guess_cell(item: ItemScore, pixels: np.ndarray, rule: Rule, subject: str) -> WallCell:
    shown = [metric for metric in rule.metrics_by_name.values() if metric.spread and metric.name in item.values]
    scores = [metric.tell(item.values[metric.name]) for metric in shown]
    return WallCell(pixels, f"{subject}: {', '.join(scores)}", tuple(scores[:1]), rule.level(item))
