"""Sensitivity charts: utility and strongest attack over each number that varies within a family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fedsim.report.drawing import DASHES, PALETTE, Picture, apply_style, blank, picture, utility_axis
from fedsim.report.sweep.pareto import highest, lowest
from fedsim.report.sweep.points import Point, common_test_metric, measure, success_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_PANELS = 12
_SYMLOG_FROM = 20.0
_NOT_KNOBS = ("seed", "minutes", "policy.", "scoring.", "sweep.")
COLUMNS = ("family", "knob", "value", "setting", "utility", "success", "success_low", "success_high")


class Knob(NamedTuple):
    """A number that varies within a family; each line is a series of settings with all other numbers equal."""

    family: str
    key: str
    lines: tuple[tuple[tuple[float, Point], ...], ...]


def knobs(points: Sequence[Point]) -> list[Knob]:
    """Return every knob of every family, in order."""
    families = dict.fromkeys(point.setting.family for point in points)
    by_family = {family: [p for p in points if p.setting.family == family] for family in families}
    return [Knob(name, key, _lines(alike, key)) for name, alike in by_family.items() for key in _vary(alike)]


@apply_style()
def draw(points: Sequence[Point]) -> list[Picture]:
    """Return a picture with a panel per knob; empty if no number varies."""
    varied = knobs([point for point in points if point.strongest])[:_MOST_PANELS]
    if not varied:
        return []
    columns = min(3, len(varied))
    height = -(-len(varied) // columns)
    figure = blank(2.7 * columns + 0.4, 2.3 * height + 0.5)
    grid = figure.subplots(height, columns, squeeze=False)
    for axes in grid.flat[len(varied) :]:
        axes.set_visible(False)
    settings = [p for knob in varied for line in knob.lines for _, p in line]
    success, metric = success_words(settings), common_test_metric(settings)
    scale = metric.scale if metric else 100.0
    for axes, knob in zip(grid.flat, varied, strict=False):
        for index, line in enumerate(knob.lines):
            dash, places = DASHES[index % len(DASHES)], [value for value, _ in line]
            risks = [p.strongest.rate for _, p in line if p.strongest]
            heights = [100 * rate.value for rate in risks]
            spread = [[100 * (r.value - lowest(r)) for r in risks], [100 * (highest(r) - r.value) for r in risks]]
            axes.errorbar(places, heights, spread, ls=dash, marker="o", ms=3, color=PALETTE[1], elinewidth=0.7)
            seen = [(value, scale * p.utility.value) for value, p in line if p.utility]
            if seen:
                axes.plot(*zip(*seen, strict=True), dash, marker="s", ms=3, color=PALETTE[0])
        _scale(axes, [value for line in knob.lines for value, _ in line])
        axes.set(ylim=(-4, 104), title=knob.family)
        axes.set_xlabel(knob.key, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.title.set_fontsize(8)
    for name, colour, marker in ((f"{success} (%)", PALETTE[1], "o"), (utility_axis(metric), PALETTE[0], "s")):
        figure.axes[0].plot([], [], marker=marker, color=colour, label=name)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    rows = [_row(knob, value, p) for knob in varied for line in knob.lines for value, p in line]
    caption = f"{success.capitalize()} by the strongest attack and test {measure(settings)} over each varied number."
    alt = " ".join([caption, *map(_format_knob, varied)])
    return [picture("sensitivity", figure, arm="", alt=alt, columns=COLUMNS, rows=rows)]


def _vary(points: Sequence[Point]) -> list[str]:
    keys = dict.fromkeys(key for point in points for key in point.setting.knobs)
    wanted = [key for key in keys if not key.startswith(_NOT_KNOBS)]
    return [key for key in wanted if len({p.setting.knobs[key] for p in points if key in p.setting.knobs}) > 1]


def _lines(points: Sequence[Point], key: str) -> tuple[tuple[tuple[float, Point], ...], ...]:
    lines: dict[str, list[tuple[float, Point]]] = {}
    for point in (p for p in points if key in p.setting.knobs):
        knobs = {name: value for name, value in point.setting.knobs.items() if name not in (key, "seed")}
        lines.setdefault(str(sorted(knobs.items())), []).append((point.setting.knobs[key], point))
    return tuple(tuple(sorted(line, key=lambda pair: pair[0])) for line in lines.values())


def _scale(axes: Axes, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0]
    if min(values) > 0 and max(values) / min(values) >= _SYMLOG_FROM:
        axes.set_xscale("log")
    elif positive and min(values) == 0 and max(positive) / min(positive) >= _SYMLOG_FROM:
        axes.set_xscale("symlog", linthresh=min(positive))


def _row(knob: Knob, value: float, point: Point) -> tuple[object, ...]:
    assert point.strongest
    rate = point.strongest.rate
    utility = point.utility.value if point.utility else None
    return knob.family, knob.key, value, point.name, utility, rate.value, rate.low, rate.high


def _format_knob(knob: Knob) -> str:
    steps = [(value, p.strongest.rate.value) for line in knob.lines for value, p in line if p.strongest]
    return f"{knob.family}, {knob.key}: " + ", ".join(f"{rate:.0%} at {value:g}" for value, rate in steps) + "."
