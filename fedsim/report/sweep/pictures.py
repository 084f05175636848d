"""Image grid of a sweep: originals and guesses of each setting's strongest attack; success of a blind guess."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from fedsim.core.errors import FedsimError
from fedsim.record import ArmRecord, AttackFinding
from fedsim.record.store import RunFolder, read_record
from fedsim.report import ceilings, image_grid
from fedsim.report.document import ImageGrid, WallCell, WallRow
from fedsim.report.image_grid import Key
from fedsim.report.sweep.cells import SweepCell
from fedsim.report.sweep.gathered import SweepRecords
from fedsim.report.sweep.points import Point
from fedsim.report.verdict import RunJudge

_MOST_SEEDS = 10


class _Shown(NamedTuple):
    """The strongest attack of a setting under a seed, with its pictures and its run's judge."""

    point: Point
    judge: RunJudge
    arm: ArmRecord
    attack: AttackFinding
    arrays: dict[str, np.ndarray]


def wall_of(sweep: SweepRecords, points: Sequence[Point]) -> ImageGrid | None:
    """Return the image grid of the first seed, or None if no pictures were stored.

    Rows are chosen by rule: the undefended controls, and of each family of defenses the settings with the most, the
    median and the least success. `image_grid.choose` selects the examples on the first row; every row shows the same
    examples.
    """
    shown = [row for point in representatives(points) if (row := _read_shown(sweep, point, sweep.seeds[0]))]
    if not shown:
        return None
    first = shown[0]
    keys = image_grid.choose(first.arm.model_copy(update={"attacks": (first.attack,)}), first.judge)
    known = image_grid.scores_of(first.attack)
    originals = tuple(image_grid.original(key, *known[key], first.arrays) for key in keys)
    if not any(cell.pixels is not None for cell in originals):
        return None
    rows = [WallRow("original", originals, is_truth=True), *(_row(setting, keys, originals) for setting in shown)]
    columns = [image_grid.column(key, *known[key], has_restarts=any(key[2] for key in known)) for key in keys]
    return image_grid.wall_of(f"Seed {sweep.seeds[0]}", columns, rows, total=len(known), number=1)


def representatives(points: Sequence[Point]) -> list[Point]:
    """Return the undefended controls, then of each family the settings with most, median and least success."""
    attacked = [point for point in points if point.strongest]
    chosen = [point for point in attacked if point.setting.is_undefended]
    for family in dict.fromkeys(point.setting.family for point in attacked if not point.setting.is_undefended):
        ranked = sorted((p for p in attacked if p.setting.family == family), key=lambda p: -_risk(p))
        chosen += [ranked[place] for place in sorted({0, len(ranked) // 2, len(ranked) - 1})]
    return chosen


def blind(sweep: SweepRecords, points: Sequence[Point]) -> dict[str, float]:
    """Return the share of images recovered by their own mean, averaged over the seeds of the first control.

    A share per data set and success rule, by `SweepSetting.data`; settings without stored pictures are omitted.
    """
    ranked = sorted((p for p in points if p.strongest), key=lambda p: not p.setting.is_undefended)
    firsts = {point.setting.data: point for point in reversed(ranked)}
    shares = {data: _blind(sweep, firsts[data]) for data in dict.fromkeys(point.setting.data for point in ranked)}
    return {data: share for data, share in shares.items() if share is not None}


def _blind(sweep: SweepRecords, point: Point) -> float | None:
    shown = [_read_shown(sweep, point, seed) for seed in sweep.seeds[:_MOST_SEEDS]]
    rates = [ceilings.blind(setting.attack, setting.arrays, setting.judge) for setting in shown if setting]
    known = [rate for rate in rates if rate is not None]
    return fmean(known) if known else None


def _risk(point: Point) -> float:
    return point.strongest.rate.value if point.strongest else 0.0


def _read_shown(sweep: SweepRecords, point: Point, seed: int) -> _Shown | None:
    cell = next((cell for cell in point.setting.cells if cell.seed == seed), None)
    if cell is None or point.strongest is None:
        return None
    return _read(sweep, point, cell, point.strongest.attack)


def _read(sweep: SweepRecords, point: Point, cell: SweepCell, label: str) -> _Shown | None:
    folder = sweep.run_path(cell.digest)
    try:
        record = read_record(folder)
        arm = record.arms[cell.arm]
        arrays = RunFolder(folder).read_arrays()
    except (FedsimError, OSError, ValueError):  # unreadable pictures are shown as not stored
        return None
    attack = next((tried for tried in arm.attacks if tried.label == label), None)
    return _Shown(point, RunJudge.of(record), arm, attack, arrays) if attack else None


def _row(shown: _Shown, keys: Sequence[Key], originals: Sequence[WallCell]) -> WallRow:
    scores = image_grid.scores_of(shown.attack)
    cells: list[WallCell] = []
    for key, original in zip(keys, originals, strict=True):
        pixels = image_grid.original(key, *scores[key], shown.arrays).pixels if key in scores else None
        if pixels is not None and original.pixels is not None and not np.array_equal(pixels, original.pixels):
            cells.append(WallCell(None, text="other image", data=image_grid.place(key)))
        else:
            cells.append(image_grid.guess(key, shown.attack, scores, shown.arrays, shown.judge))
    return WallRow(f"{shown.point.name} ({shown.attack.label})", tuple(cells))
