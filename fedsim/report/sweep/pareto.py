"""Pareto charts of a sweep: utility against attack success, dominated settings and the frontier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fedsim.metrics.comparison import frontier
from fedsim.record import Interval
from fedsim.report.drawing import MARKERS, PALETTE, Picture, apply_style, blank, picture, utility_axis
from fedsim.report.sweep.gathered import UNDEFENDED
from fedsim.report.sweep.labels import NamedPoint, annotate
from fedsim.report.sweep.points import (
    FEW_FALSE_ALARMS,
    Point,
    Risk,
    common_test_metric,
    measure,
    orient_figure,
    success_words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = "#999999"
_MOST_LABELS = 40
COLUMNS = ("panel", "setting", "family", "attack", "utility", "utility_low", "utility_high", "success")
COLUMNS = (*COLUMNS, "success_low", "success_high", "dominated", "on_frontier")


class Place(NamedTuple):
    """A setting in the plane; more utility and less risk are better."""

    point: Point
    attack: str
    utility: Interval
    risk: Interval

    @property
    def gain(self) -> Interval:
        """The utility, negated if lower values are better."""
        return orient_figure(self.utility, self.point.setting.test_metric)

    @property
    def scale(self) -> float:
        """Factor from the stored to the displayed utility."""
        metric = self.point.setting.test_metric
        return metric.scale if metric else 1.0

    @property
    def utility_and_risk(self) -> tuple[float | None, ...]:
        """Utility and risk, each with its bounds."""
        return tuple(x for interval in (self.utility, self.risk) for x in (interval.value, interval.low, interval.high))


def dominate(places: Sequence[Place]) -> list[bool]:
    """Return for each place whether another place dominates it.

    Dominance means at least as good in both respects, and better beyond both intervals in either respect.
    """
    return [any(_beats(rival, place) for rival in places) for place in places]


def best_of(places: Sequence[Place]) -> list[Place]:
    """Return the places on the frontier of the estimates, by increasing utility."""
    return frontier(places, lambda place: (place.gain.value, place.risk.value))[::-1]


def panels(points: Sequence[Point]) -> dict[str, list[Place]]:
    """Return the nonempty panels: strongest, median and unaware attack, and membership."""
    is_any_aware = any(point.unaware for point in points)
    chosen: dict[str, Callable[[Point], Risk | None]] = {
        "strongest attack": lambda p: p.strongest,
        "median attack": lambda p: p.median,
        "strongest attack that does not know the defense": lambda p: (
            (p.unaware or p.strongest) if is_any_aware else None
        ),
        "membership, 1% false alarms": lambda p: p.membership,
    }
    places_by_title = {
        title: [Place(p, risk.attack, p.utility, risk.rate) for p in points if (risk := chosen_risk(p)) and p.utility]
        for title, chosen_risk in chosen.items()
    }
    return {title: places for title, places in places_by_title.items() if places}


@apply_style()
def draw(points: Sequence[Point], blind: Mapping[str, float]) -> list[Picture]:
    """Return a picture per panel.

    Args:
        points: points of all settings.
        blind: share of images recovered by a guess without an update, by `SweepSetting.data` if known.
    """
    families = list(dict.fromkeys(point.setting.family for point in points))
    return [_panel(title, places, families, blind) for title, places in panels(points).items()]


def style(family: str, families: Sequence[str]) -> tuple[str, str]:
    """Return (colour, marker) of a family; the undefended family is always a black star."""
    if family == UNDEFENDED:
        return "#000000", "*"
    index = [name for name in families if name != UNDEFENDED].index(family)
    return PALETTE[index % (len(PALETTE) - 1)], MARKERS[index % len(MARKERS)]


def _panel(title: str, places: list[Place], families: Sequence[str], blind: Mapping[str, float]) -> Picture:
    beaten, best = dominate(places), best_of(places)
    figure = blank(6.4, 4.6)
    axes = figure.subplots()
    for place, is_beaten in zip(places, beaten, strict=True):
        colour, marker = style(place.point.setting.family, families)
        is_control = place.point.setting.is_undefended
        shade = _GREY if is_beaten and not is_control else colour
        axes.errorbar(
            place.scale * place.utility.value,
            100 * place.risk.value,
            xerr=_bars(place.utility, place.scale),
            yerr=_bars(place.risk),
            fmt=marker,
            ms=10 if is_control else 6,
            color=shade,
            elinewidth=0.7,
            alpha=0.6 if is_beaten and not is_control else 1.0,
        )
    steps = [(place.scale * place.utility.value, 100 * place.risk.value) for place in best]
    axes.step(*zip(*steps, strict=True), where="pre", color="#555555", lw=1, zorder=0)
    shown = {place.point.setting.family for place in places}
    for family in (name for name in families if name in shown):
        colour, marker = style(family, families)
        axes.plot([], [], marker, color=colour, label=family)
    is_membership = title.startswith("membership")
    nothing = {"": FEW_FALSE_ALARMS} if is_membership else blind
    for index, (data, share) in enumerate(nothing.items()):
        label = f"no information, {data}" if len(nothing) > 1 else "no information"
        axes.axhline(100 * share, color="#555555", lw=1, ls=(0, (1, 2 + 2 * index)), label=label)
    settings = [place.point for place in places]
    recovered = "members found (%)" if is_membership else f"{success_words(settings)} (%)"
    axes.set(title=title, xlabel=utility_axis(common_test_metric(settings)), ylabel=recovered)
    axes.set(ylim=(-3, 103))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    _name(
        axes, [p for p, is_beaten in zip(places, beaten, strict=True) if not is_beaten or p.point.setting.is_undefended]
    )
    rows = [
        (title, p.point.name, p.point.setting.family, p.attack, *p.utility_and_risk, is_beaten, p in best)
        for p, is_beaten in zip(places, beaten, strict=True)
    ]
    ends = "; ".join(f"{p.point.name}: {p.point.utility_in_words}, success {p.risk.value:.0%}" for p in best)
    name = f"pareto-{'-'.join(title.replace(',', '').replace('%', '').split())}"
    alt = (
        f"Test {measure(settings)} against the success of the {title}, {len(places)} settings. On the frontier: {ends}."
    )
    return picture(name, figure, arm="", alt=alt, columns=COLUMNS, rows=rows)


def _name(axes: Axes, places: Sequence[Place]) -> None:
    if len(places) <= _MOST_LABELS:
        annotate(axes, [NamedPoint(p.point.name, p.scale * p.utility.value, 100 * p.risk.value) for p in places])


def _beats(first: Place, second: Place) -> bool:
    if first.gain.value < second.gain.value or first.risk.value > second.risk.value:
        return False
    return lowest(first.gain) > highest(second.gain) or highest(first.risk) < lowest(second.risk)


def lowest(interval: Interval) -> float:
    """Return the lower bound, or the value if it has no bound."""
    return interval.value if interval.low is None else interval.low


def highest(interval: Interval) -> float:
    """Return the upper bound, or the value if it has no bound."""
    return interval.value if interval.high is None else interval.high


def _bars(interval: Interval, scale: float = 100.0) -> list[list[float]]:
    value = interval.value
    return [[scale * (value - lowest(interval))], [scale * (highest(interval) - value)]]
