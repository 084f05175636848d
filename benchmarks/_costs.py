"""A picture of what defenses cost and keep: accuracy across, closeness of the strongest attack's images down.

A setting on the frontier is named: no other leaves at least as much accuracy and lets at most as much through.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from benchmarks._rows import Row
from benchmarks._svg import page, text
from fedsim.core.errors import FedsimError
from fedsim.metrics.comparison import frontier

_UTILITY, _LEAK, _UNDEFENDED = "accuracy", "PSNR", "none"
_LEFT, _TOP, _WIDTH, _HEIGHT, _NAMES, _LINE = 56, 16, 400, 300, 250, 17
_GRID = 5  # lines each way; 25 dB are five times a whole number
_LOOKS = {True: ("#0072b2", 5), False: ("#8a929b", 4)}  # colour and radius: on the frontier, beaten


class Point(NamedTuple):
    """A setting: accuracy in [0, 1], and dB of the strongest attack's images."""

    setting: str
    accuracy: float
    decibels: float


def points(rows: Sequence[Row]) -> list[Point]:
    """Return every setting whose accuracy and images were measured."""
    leaks: dict[str, float] = {}
    for row in rows:
        if row.name.startswith(_LEAK):
            leaks[row.setting] = max(row.value, leaks.get(row.setting, 0.0))
    return [Point(row.setting, row.value, leaks[row.setting]) for row in rows if row.name == _UTILITY]


def best_of(every: Sequence[Point]) -> list[Point]:
    """Return the settings that none beats, from the most accuracy on."""
    return frontier(every, lambda one: (one.accuracy, one.decibels))


def alt_text(rows: Sequence[Row], title: str) -> str:
    """Return the picture for who cannot see it."""
    every = points(rows)
    best = ", ".join(f"{one.setting}: {one.accuracy:.2f} and {one.decibels:.0f} dB" for one in best_of(every))
    return f"{title}: accuracy and PSNR of {len(every)} settings; none beats {best}"


def draw(rows: Sequence[Row], title: str) -> str:
    """Return the picture as SVG.

    Raises:
        FedsimError: no setting has both figures.
    """
    every = points(rows)
    if not every:
        raise FedsimError(f"{title}: no setting has rows '{_UTILITY}' and '{_LEAK}', so there is nothing to draw.")
    best, most = best_of(every), 25.0 * (1 + max(one.decibels for one in every) // 25)
    named = sorted([*best, *(one for one in every if one.setting == _UNDEFENDED)], key=lambda one: -one.decibels)
    width, height = _LEFT + _WIDTH + _NAMES, _TOP + _HEIGHT + 44
    upwards = text(-_TOP - _HEIGHT // 2, 14, "PSNR (dB): down protects more", anchor="middle")
    parts = [
        *(line for step in range(_GRID + 1) for line in _lines(step / _GRID, most)),
        text(_LEFT + _WIDTH // 2, height - 6, "test accuracy: right costs less", anchor="middle"),
        f'<g transform="rotate(-90)">{upwards}</g>',
    ]
    floor = 0
    for point in named:
        x, y = _place(point, most)
        floor = max(floor + _LINE, y)
        parts.append(f'<path d="M{x} {y}L{_LEFT + _WIDTH + 14} {floor}" stroke="#c9d0d7"/>')
        parts.append(text(_LEFT + _WIDTH + 18, floor + 4, point.setting))
    parts += [_mark(point, most, is_best=point in best) for point in every]
    return page(width, height, alt_text(rows, title), parts)


def _place(point: Point, most: float) -> tuple[int, int]:
    return round(_LEFT + _WIDTH * point.accuracy), round(_TOP + _HEIGHT * (1.0 - point.decibels / most))


def _mark(point: Point, most: float, *, is_best: bool) -> str:
    (x, y), (colour, radius) = _place(point, most), _LOOKS[is_best]
    words = f"{point.setting}: accuracy {point.accuracy:.2f}, {point.decibels:.1f} dB"
    return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"><title>{escape(words)}</title></circle>'


def _lines(share: float, most: float) -> tuple[str, ...]:
    x, y = round(_LEFT + _WIDTH * share), round(_TOP + _HEIGHT * (1.0 - share))
    return (
        f'<path d="M{x} {_TOP}V{_TOP + _HEIGHT}M{_LEFT} {y}H{_LEFT + _WIDTH}" stroke="#e4e8ec"/>',
        text(x, _TOP + _HEIGHT + 18, f"{share:.1f}", anchor="middle"),
        text(_LEFT - 6, y + 4, f"{most * share:.0f}", anchor="end"),
    )
