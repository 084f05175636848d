"""Image grid of a run: originals and each attack's reconstructions, with examples selected by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedsim.core.sanitize import slug
from fedsim.record import ArmRecord, AttackFinding, ItemScore, RunRecord, VictimRecord
from fedsim.report.document import ImageGrid, WallCell, WallRow
from fedsim.report.verdict import RunJudge

MOST = 8
PERCENTILES = (0, 25, 50, 75, 100)
PUBLIC = (
    "The small picture under a guess is the nearest to it, by squared error, among at most "
    "2,000 of the test set, which no client trains on and an attacker may own. A guess that is "
    "nearer to it than to the original, as marked, may be the attacker's prior of such "
    "pictures and no copy of the client's. The distance is over pixels: pictures that look "
    "alike to people may be far apart."
)

TICKS = "The word after the tick is the best result of a guess: exact, readable (SSIM above 0.5) or identified."

Arrays = Mapping[str, np.ndarray]
Key = tuple[int, int, int]


def walls(record: RunRecord, arrays: Arrays, judge: RunJudge) -> list[ImageGrid]:
    """Return a grid for every arm with pictures; arms in which some attacks succeed and others fail come first.

    The examples are chosen once, in the first arm with scores, and reused in every arm that has them.
    """
    preferred = next((keys for arm in record.arms if (keys := choose(arm, judge))), ())
    built: list[ImageGrid] = []
    for arm in sorted(record.arms, key=lambda arm: not _is_telling(arm, judge)):
        if wall := _wall(arm, preferred, arrays, judge, number=len(built) + 1):
            built.append(wall)
    return built


def _is_telling(arm: ArmRecord, judge: RunJudge) -> bool:
    counts = [judge.count(attack) for attack in arm.attacks]
    return len({count.recovered_examples > 0 for count in counts if count.examples}) > 1


def choose(arm: ArmRecord, judge: RunJudge) -> tuple[Key, ...]:
    """Choose (round, client, index) of the examples to show.

    All examples up to 8; otherwise the examples at percentiles 0, 25, 50, 75 and 100 of the first attack's scores.
    """
    for attack in arm.attacks:
        scores = scores_of(attack)
        if len(scores) > MOST:
            order = judge.order(attack)
            ranked = sorted(scores, key=lambda key: (order.sign * scores[key][1].values[order.name], key))
            return tuple(ranked[round(p / 100 * (len(ranked) - 1))] for p in PERCENTILES)
        if scores:
            return tuple(scores)
    return ()


def has_public(walls: Sequence[ImageGrid]) -> bool:
    """Return whether any guess is shown with its nearest public picture."""
    return any(cell.public is not None for wall in walls for row in wall.rows for cell in row.cells)


def sheet_name(number: int, title: str) -> str:
    """Return the file name of a grid's sheet, without suffix."""
    return f"wall-{number}-{slug(title)}"


def wall_of(title: str, columns: Sequence[str], rows: Sequence[WallRow], *, total: int, number: int) -> ImageGrid:
    """Return a grid with a note on the number of examples shown and the path of its sheet."""
    note = f"{len(columns)} of {total} examples. Sheet for slides: figures/{sheet_name(number, title)}.png"
    return ImageGrid(title, tuple(columns), tuple(rows), note)


def _wall(
    arm: ArmRecord, preferred: Sequence[Key], arrays: Arrays, judge: RunJudge, *, number: int
) -> ImageGrid | None:
    scores = [scores_of(attack) for attack in arm.attacks]
    known = dict.fromkeys(key for of_attack in scores for key in of_attack)
    keys = [key for key in preferred if key in known] or list(choose(arm, judge))
    first: dict[Key, tuple[VictimRecord, ItemScore]] = {}
    for of_attack in reversed(scores):
        first |= of_attack
    originals = tuple(original(key, *first[key], arrays) for key in keys)
    if not any(cell.pixels is not None for cell in originals):
        return None
    rows = [WallRow("original", originals, is_truth=True)]
    for attack, of_attack in zip(arm.attacks, scores, strict=True):
        cells = tuple(guess(key, attack, of_attack, arrays, judge) for key in keys)
        rows.append(WallRow(attack.label, cells))
    has_restarts = any(key[2] for key in known)
    columns = [column(key, *first[key], has_restarts) for key in keys]
    return wall_of(arm.name, columns, rows, total=len(known), number=number)


def scores_of(attack: AttackFinding) -> dict[Key, tuple[VictimRecord, ItemScore]]:
    """Return (victim, score) of every example for which an attack returned a guess."""
    return {
        (victim.round, victim.client, item.index): (victim, item)
        for victim in attack.victims
        if victim.failure is None
        for item in victim.scores
    }


def column(key: Key, victim: VictimRecord, item: ItemScore, has_restarts: bool) -> str:
    """Return the column heading of an example."""
    example = f", image {key[2]}" if has_restarts else ""
    return f"round {victim.round}, {victim.sender}{example}, class {item.label}"


def original(key: Key, victim: VictimRecord, item: ItemScore, arrays: Arrays) -> WallCell:
    """Return the cell of an original."""
    pixels = pixels_of(arrays, f"{victim.arrays}/originals", item.index)
    alt = f"Original of round {victim.round}, {victim.sender}, image {item.index}, class {item.label}"
    return WallCell(pixels, alt, text="not stored", data=place(key))


def place(key: Key) -> dict[str, object]:
    """Return round, client and image of an example as data columns."""
    return dict(zip(("round", "client", "image"), key, strict=True))


def guess(
    key: Key,
    attack: AttackFinding,
    scores: Mapping[Key, tuple[VictimRecord, ItemScore]],
    arrays: Arrays,
    judge: RunJudge,
) -> WallCell:
    """Return the cell of an attack's guess of an example."""
    if key not in scores:
        return WallCell(None, text="failed", data=place(key))
    victim, item = scores[key]
    if item.is_missing:
        return WallCell(None, text="no guess", data=place(key))
    spread = [metric for metric in judge.spread if metric.name in item.values]
    scores_in_words = tuple(metric.tell(item.values[metric.name]) for metric in spread)
    position = f"round {victim.round}, {victim.sender}, image {item.index}"
    pixels, actual, public = (
        pixels_of(arrays, f"{victim.arrays}/{name}", item.index) for name in ("guesses", "originals", "public")
    )
    to_public = _psnr(pixels, public)
    return WallCell(
        pixels,
        f"Guess of attack {attack.label} for {position}: {', '.join(scores_in_words)}",
        scores_in_words,
        judge.success.level(item),
        "not stored",
        public,
        f"{to_public:.1f} dB",
        public is not None and to_public > _psnr(pixels, actual),
        {**place(key), **{metric.column_name: item.values[metric.name] for metric in spread}},
    )


def _psnr(first: np.ndarray | None, second: np.ndarray | None) -> float:
    """Return the PSNR of two pictures in dB, at most that of a mean error of 1/255; 0 if a picture is not stored."""
    if first is None or second is None:
        return 0.0
    return float(-10 * np.log10(max(np.square(first - second).mean(), 255.0**-2)))


def pixels_of(arrays: Arrays, name: str, index: int) -> np.ndarray | None:
    """Return a picture as (H, W, 3); unless it has 1 or 3 channels, its first channel is shown in grey."""
    if name not in arrays or arrays[name].ndim != 4 or index >= len(arrays[name]):  # noqa: PLR2004 - (B, C, H, W)
        return None
    stored = arrays[name][index]
    image = stored / 255 if stored.dtype == np.uint8 else np.clip(np.nan_to_num(stored), 0.0, 1.0)
    channels = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)  # noqa: PLR2004 - red, green, blue
    return channels.transpose(1, 2, 0)
