"""A picture of any experiment that counts exact images: what is attacked down, batches across.

A setting is read at its commas: what begins with ``B =``, and all behind it, is the column, what stands before it the
row, and the name of an attack neither. Of a square the attack counts that recovers most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from benchmarks._rows import Row
from benchmarks._svg import INK, page, text
from fedsim.core.errors import FedsimError
from fedsim.core.registry.index import entries_of

_EXACT = ("updates with every image exact", "exact", "images exact")
_CEILING = "ideal attacker: images exact"
_MOST = 0.5
State = Literal["recovered", "undecided", "withstood"]
_LOOKS: dict[State, tuple[str, str, str]] = {  # letter, colours of the square and of the letter
    "recovered": ("R", "#d55e00", "#ffffff"),
    "undecided": ("U", "#f0e442", INK),
    "withstood": ("W", "#0072b2", "#ffffff"),
}
_SQUARE, _HEIGHT, _LETTER, _TOP = 116, 34, 6.6, 60


class Square(NamedTuple):
    """What became of one row and column."""

    state: State
    share: float
    n: int


def squares(rows: Sequence[Row]) -> dict[tuple[str, str], Square]:
    """Return what became of each row and column, in the order of the results.

    Recovered: an attack recovers every image of at least half of the updates. Withstood: the ideal attacker recovers
    none. All else is undecided.
    """
    attacks = set(entries_of("attack"))
    best: dict[tuple[str, str], Row] = {}
    hopeless: set[tuple[str, str]] = set()
    for row in rows:
        place = _place(row.setting, attacks)
        if place is None:
            continue
        if row.name == _CEILING and row.value == 0.0:
            hopeless.add(place)
        if row.name in _EXACT and (place not in best or row.value > best[place].value):
            best[place] = row
    return {place: Square(_state(row, place in hopeless), row.value, row.n) for place, row in best.items()}


def draw(rows: Sequence[Row], title: str) -> str:
    """Return the picture as SVG: a letter and a colour a square, and beside it in how many updates.

    Raises:
        FedsimError: no row counts exact images of a batch.
    """
    made = squares(rows)
    if not made:
        raise FedsimError(f"{title}: no row counts exact images of a batch, so there is nothing to draw.")
    down, across = list(dict.fromkeys(row for row, _ in made)), sorted({column for _, column in made}, key=_batch)
    left = round(_LETTER * max(map(len, down))) + 20
    width, height = left + _SQUARE * len(across) + 10, _TOP + _HEIGHT * (len(down) + 1)
    parts = [text(left + _SQUARE * number + 4, _TOP - 10, name) for number, name in enumerate(across)]
    for number, name in enumerate(down):
        y = _TOP + _HEIGHT * number
        parts.append(text(left - 8, y + 21, name, anchor="end"))
        parts += [
            _square(left + _SQUARE * place, y, made[name, column])
            for place, column in enumerate(across)
            if (name, column) in made
        ]
    legend = ((f"{look[0]} {state}", look) for state, look in _LOOKS.items())
    for number, (words, look) in enumerate(legend):
        x = 10 + 130 * number
        parts += [f'<rect x="{x}" y="12" width="14" height="14" fill="{look[1]}"/>', text(x + 20, 24, words)]
    return page(width, height, alt_text(rows, title), parts)


def alt_text(rows: Sequence[Row], title: str) -> str:
    """Return the picture for who cannot see it: how many squares are what."""
    made = squares(rows)
    counts = {state: sum(square.state == state for square in made.values()) for state in _LOOKS}
    return f"{title}: of {len(made)} squares {', '.join(f'{count} {state}' for state, count in counts.items())}"


def _place(setting: str, attacks: set[str]) -> tuple[str, str] | None:
    parts = [part for part in setting.split(", ") if part not in attacks]
    batch = next((number for number, part in enumerate(parts) if part.startswith("B = ") and part[4:].isdigit()), 0)
    return (", ".join(parts[:batch]), ", ".join(parts[batch:])) if batch else None


def _batch(column: str) -> tuple[int, str]:
    """Return the size of a column's batch, and what else it says."""
    size, _, rest = column.removeprefix("B = ").partition(",")
    return int(size), rest


def _state(row: Row, is_hopeless: bool) -> State:
    if row.value >= _MOST:
        return "recovered"
    return "withstood" if is_hopeless and not row.value else "undecided"


def _square(x: int, y: int, square: Square) -> str:
    letter, paper, ink = _LOOKS[square.state]
    words = f"{letter}  {round(square.share * square.n)} of {square.n}"
    shape = f'<rect x="{x + 2}" y="{y + 2}" width="{_SQUARE - 4}" height="{_HEIGHT - 4}" rx="3" fill="{paper}"/>'
    return f"{shape}{text(x + 12, y + 21, words, ink)}"
