"""The wall: originals beside every attack's reconstruction of them, chosen by rule and never by hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedsim.record import ArmRecord, AttackRecord, ItemScore, RunRecord, VictimRecord
from fedsim.report.verdict import Judge

MOST = 8
PERCENTILES = (0, 25, 50, 75, 100)

Arrays = Mapping[str, np.ndarray]
Key = tuple[int, int, int]


@dataclass(frozen=True)
class Cell:
    """One picture, or a text where there is none. `pixels` has shape (H, W, 3) and values in [0, 1].

    `values` holds the metrics of a guess that tables of examples and figures have, by column, and `told` the same for
    people. `public` is the public picture nearest to a guess, in the same form; `public_psnr` is how near it is in dB,
    and `psnr` how near the original is.
    """

    key: Key
    pixels: np.ndarray | None
    alt: str
    values: Mapping[str, float] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    recovered: bool = False
    text: str = ""
    public: np.ndarray | None = None
    psnr: float = 0.0
    public_psnr: float = 0.0

    @property
    def source(self) -> str:
        """The picture as a data address."""
        return data_address("image/png", encode(self.pixels)) if self.pixels is not None else ""

    @property
    def public_source(self) -> str:
        """The public picture as a data address."""
        return data_address("image/png", encode(self.public)) if self.public is not None else ""

    @property
    def is_public(self) -> bool:
        """Whether the guess is nearer to a public picture than to the original."""
        return self.public is not None and self.public_psnr > self.psnr


@dataclass(frozen=True)
class Row:
    """The originals, or one attack's guesses."""

    label: str
    attack: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Wall:
    """The pictures of one arm, the same examples in every row."""

    arm: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    shown: int
    of: int

    @property
    def has_public(self) -> bool:
        """Whether any guess has a public picture beside it."""
        return any(cell.public is not None for row in self.rows for cell in row.cells)


def walls(record: RunRecord, arrays: Arrays, judge: Judge) -> list[Wall]:
    """Return a wall for every arm that has pictures.

    The examples are chosen once, in the first arm with scores, and are the same in every arm that has them.
    """
    preferred = next((keys for arm in record.arms if (keys := choose(arm, judge))), ())
    built = (_wall(arm, preferred, arrays, judge) for arm in record.arms)
    return [wall for wall in built if wall is not None]


def choose(arm: ArmRecord, judge: Judge) -> tuple[Key, ...]:
    """Choose (round, client, index) of the examples to show.

    All of them up to 8; otherwise those at percentiles 0, 25, 50, 75 and 100 of the first attack's scores.
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


def encode(pixels: np.ndarray) -> bytes:
    """Return a PNG of pixels (H, W, 3) in [0, 1]."""
    from PIL import Image  # noqa: PLC0415 - keeps the import of the report cheap

    file = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def data_address(kind: str, content: bytes) -> str:
    """Return `content` as a ``data:`` address, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _wall(arm: ArmRecord, preferred: Sequence[Key], arrays: Arrays, judge: Judge) -> Wall | None:
    scores = [scores_of(attack) for attack in arm.attacks]
    known = dict.fromkeys(key for of_attack in scores for key in of_attack)
    keys = [key for key in preferred if key in known] or list(choose(arm, judge))
    first: dict[Key, tuple[VictimRecord, ItemScore]] = {}
    for of_attack in reversed(scores):
        first |= of_attack
    originals = tuple(original(key, *first[key], arrays) for key in keys)
    if not any(cell.pixels is not None for cell in originals):
        return None
    rows = [Row("original", "", originals)]
    for attack, of_attack in zip(arm.attacks, scores, strict=True):
        cells = tuple(guess(key, attack, of_attack, arrays, judge) for key in keys)
        rows.append(Row(attack.label, attack.label, cells))
    several = any(key[2] for key in known)
    columns = tuple(column(key, *first[key], several) for key in keys)
    return Wall(arm.name, columns, tuple(rows), len(keys), len(known))


def scores_of(attack: AttackRecord) -> dict[Key, tuple[VictimRecord, ItemScore]]:
    """Return (victim, score) of every example that an attack gave a guess for."""
    return {
        (victim.round, victim.client, item.index): (victim, item)
        for victim in attack.victims
        if victim.failure is None
        for item in victim.scores
    }


def column(key: Key, victim: VictimRecord, item: ItemScore, several: bool) -> str:
    """Return the heading of an example."""
    example = f", image {key[2]}" if several else ""
    return f"round {victim.round}, {victim.who}{example}, class {item.label}"


def original(key: Key, victim: VictimRecord, item: ItemScore, arrays: Arrays) -> Cell:
    """Return the picture of an example as it is."""
    pixels = _pixels(arrays, f"{victim.arrays}/originals", item.index)
    alt = f"Original of round {victim.round}, {victim.who}, image {item.index}, class {item.label}"
    return Cell(key, pixels, alt, text="not stored")


def guess(
    key: Key,
    attack: AttackRecord,
    scores: Mapping[Key, tuple[VictimRecord, ItemScore]],
    arrays: Arrays,
    judge: Judge,
) -> Cell:
    """Return the picture of what an attack made of an example."""
    if key not in scores:
        return Cell(key, None, "", text="failed")
    victim, item = scores[key]
    if item.is_missing:
        return Cell(key, None, "", text="no guess")
    spread = [own for own in judge.spread if own.name in item.values]
    told = tuple(own.tell(item.values[own.name]) for own in spread)
    alt = (
        f"Guess of attack {attack.label} for round {victim.round}, {victim.who}, image {item.index}: {', '.join(told)}"
    )
    pixels = _pixels(arrays, f"{victim.arrays}/guesses", item.index)
    public = _pixels(arrays, f"{victim.arrays}/public", item.index)
    actual = _pixels(arrays, f"{victim.arrays}/originals", item.index)
    values = {own.in_tables: item.values[own.name] for own in spread}
    return Cell(
        key,
        pixels,
        alt,
        values,
        told,
        recovered=judge.success.has_succeeded(item),
        text="not stored",
        public=public,
        psnr=_psnr(pixels, actual),
        public_psnr=_psnr(pixels, public),
    )


def _psnr(one: np.ndarray | None, other: np.ndarray | None) -> float:
    """Return how near two pictures are, in dB; two that differ by less than a step of 256 count as one such step.

    0 where one is not stored.
    """
    if one is None or other is None:
        return 0.0
    return float(-10 * np.log10(max(np.square(one - other).mean(), 255.0**-2)))


def _pixels(arrays: Arrays, name: str, index: int) -> np.ndarray | None:
    """Return one picture as (H, W, 3); pictures with neither 1 nor 3 channels show their first channel in grey."""
    if name not in arrays or arrays[name].ndim != 4 or index >= len(arrays[name]):  # noqa: PLR2004 - (B, C, H, W)
        return None
    stored = arrays[name][index]
    image = stored / 255 if stored.dtype == np.uint8 else np.clip(np.nan_to_num(stored), 0.0, 1.0)
    channels = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)  # noqa: PLR2004 - red, green, blue
    return channels.transpose(1, 2, 0)
