"""The table of settings, for people and as CSV, and the other tables of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedsim.core import registry
from fedsim.core.metric import Metric
from fedsim.document import TableCell
from fedsim.record import Interval
from fedsim.report.sweep.curves import shares_above
from fedsim.report.sweep.gathered import Setting, Sweep
from fedsim.report.sweep.pareto import Place, dominate
from fedsim.report.sweep.points import Point, attackers, measure, risk
from fedsim.report.sweep.verdict import Judgement, judge
from fedsim.report.tables.figures import NOTHING, estimate

_FIRST: dict[str, str] = {
    "setting": "what the sweep set",
    "defense": "names of the defenses and components in force",
    "measure": "what was measured on the test set",
    "utility": "the figure of that, mean over seeds",
    "utility_low": "Student's interval over seeds",
    "utility_high": "",
    "utility_loss": "utility of the undefended control minus this one, seed by seed",
    "utility_loss_low": "",
    "utility_loss_high": "",
    "attack": "the one that recovers most",
    "success": "share of images or sentences that it recovers",
    "success_low": "the wider of Wilson's interval over victims and a bootstrap of seeds and victims",
    "success_high": "",
}
_REST: dict[str, str] = {
    "ceiling_psnr": "median PSNR in dB that the ideal attacker reaches, to first order; empty where not asked for",
    "ceiling_success": "share of images that its guess would recover",
    "difference": "success minus that on the control, victim by victim",
    "difference_low": "two-stage bootstrap",
    "difference_high": "",
    "p_holm": "paired sign-flip test of that difference, after Holm over all settings",
    "members_found": "by the best membership attack at 1% false alarms",
    "members_found_low": "Wilson",
    "members_found_high": "",
    "epsilon": "of the weakest guarantee over seeds; empty without one",
    "delta": "of that guarantee",
    "train_seconds": "wall time of one client's training",
    "train_processor_seconds": "processor time of one client's training, repeated alone in its process",
    "train_peak_memory": "bytes that this process held at most meanwhile, programs and data included",
    "attack_seconds": "wall time of one attack on one victim",
    "upload_bytes": "a client's update as 32-bit numbers, uncompressed",
    "seeds": "number of runs",
    "victims": "number of attacked updates over all seeds",
}


class Line(NamedTuple):
    """A row for people; `sort` holds what each cell is sorted by."""

    point: Point
    marks: tuple[str, ...]
    cells: tuple[TableCell, ...]
    sort: tuple[float | str, ...]


_HEADINGS = (
    "ideal attacker",
    "p (Holm)",
    "members found",
    "epsilon",
    "train s",
    "bytes up",
    "seeds, victims",
)


def columns(sweep: Sweep) -> dict[str, str]:
    """Return name and meaning of the columns of the table as numbers."""
    extremes = {
        name: meaning
        for own in counted(sweep)
        for name, meaning in (
            (f"{own.name}_p95", f"95th percentile of its {own.title}{_unit(own)}"),
            (f"{own.name}_max", f"its best {own.noun}{_unit(own)}"),
        )
    }
    return {**_FIRST, **extremes, **_REST}


def counted(sweep: Sweep) -> list[Metric]:
    """Return the metrics whose examples are counted above thresholds: those of the records, or else those installed."""
    known = {**registry.every_metric(), **sweep.judge.declared}.values()
    return [own for own in known if own.steps]


def _unit(metric: Metric) -> str:
    return f", {metric.unit}" if metric.unit else ""


def headings(sweep: Sweep, points: Sequence[Point]) -> tuple[str, ...]:
    """Return the headings of the table."""
    name = measure(points)
    extremes = (f"95th / best {own.title}" for own in counted(sweep))
    return (name, f"{name} loss", "attack success", "strongest attack", *extremes, *_HEADINGS)


def lines(sweep: Sweep, points: Sequence[Point]) -> list[Line]:
    """Return the sortable table."""
    beaten = _beaten(points)
    return [_line(sweep, point, point.name in beaten) for point in points]


def rows(sweep: Sweep, points: Sequence[Point]) -> list[tuple[Any, ...]]:
    """Return the table as numbers, in the order of `columns`."""
    metrics = counted(sweep)
    return [_row(point, metrics) for point in points]


class Thresholds(NamedTuple):
    """The share of examples above several thresholds of one metric, a row (setting, shares) each."""

    metric: Metric
    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


_LAST = 1e300


def thresholds(sweep: Sweep, points: Sequence[Point]) -> list[Thresholds]:
    """Return P(score > t) of each setting's strongest attack at a few t, for every metric that names these."""
    return [_thresholds(own, points) for own in counted(sweep)]


def _thresholds(metric: Metric, points: Sequence[Point]) -> Thresholds:
    rows = tuple(
        (p.name, tuple(f"{100 * share:.0f}%" for share in shares))
        for p in points
        if p.strongest
        for shares in [shares_above(p.setting.victims(p.strongest.attack), metric.name, np.array(metric.steps))]
    )
    unit = f" {metric.unit}" if metric.unit else ""
    return Thresholds(metric, tuple(f"{step:g}{unit}" for step in metric.steps), rows)


class ByAttack(NamedTuple):
    """One attack on one setting."""

    setting: str
    attack: str
    is_control: bool
    success: TableCell
    victims: int
    reason: str


def by_attack(sweep: Sweep, points: Sequence[Point]) -> list[ByAttack]:
    """Return every attack on every setting, also those that gave no guess."""
    return [_by_attack(sweep, point.setting, label) for point in points for label in point.setting.labels]


def _by_attack(sweep: Sweep, setting: Setting, label: str) -> ByAttack:
    found = risk(setting, label, sweep.judge)
    reasons = dict.fromkeys(reason for tried in setting.attempt(label) for reason in tried.reasons)
    success = estimate(found.rate, 100, 0, "%") if found else TableCell("failed")
    told = "; ".join(list(reasons)[:2])
    is_control = label not in attackers(setting)
    return ByAttack(setting.name, label, is_control, success, len(setting.victims(label)), told)


def _beaten(points: Sequence[Point]) -> set[str]:
    places = [Place(p, p.strongest.attack, p.utility, p.strongest.rate) for p in points if p.strongest and p.utility]
    return {place.point.name for place, is_beaten in zip(places, dominate(places), strict=True) if is_beaten}


def _line(sweep: Sweep, point: Point, is_beaten: bool) -> Line:
    p = NOTHING if point.p is None else f"{point.p:.3f}" if point.p >= 0.001 else "< 0.001"  # noqa: PLR2004 - three digits
    extremes = [_extremes(point, own) for own in counted(sweep)]
    members = point.membership[1] if point.membership else None
    success = point.strongest.rate if point.strongest else None
    victims = success.n if success else 0
    size = 4 * point.parameters
    cells = (
        _measure(point, point.utility),
        _measure(point, point.loss, has_unit=False),
        TableCell("failed") if point.has_failed else estimate(success, 100, 0, "%"),
        TableCell(point.strongest.attack if point.strongest else NOTHING),
        *(_extremes_told(own, *found) for own, found in zip(counted(sweep), extremes, strict=True)),
        TableCell(point.reach.told if point.reach else NOTHING),
        TableCell(p),
        estimate(members, 100, 1, "%"),
        _epsilon(point),
        TableCell(f"{point.seconds.value:.2g}"),
        TableCell(f"{size:,}"),
        TableCell(f"{len(point.setting.cells)}, {victims}"),
    )
    sort = (
        _sortable(point.utility),
        _sortable(point.loss),
        _sortable(success),
        cells[3].text,
        *(_LAST if best is None else best for _, best in extremes),
        _LAST if point.reach is None or point.reach.psnr is None else point.reach.psnr,
        _LAST if point.p is None else point.p,
        _sortable(members),
        min(point.epsilon, _LAST),
        point.seconds.value,
        size,
        victims,
    )
    marks = [] if sweep.policy.is_empty else [_light(judge(point, sweep.policy))]
    marks += ["control"] if point.setting.is_undefended else []
    marks += ["dominated"] if is_beaten and not point.setting.is_undefended else []
    return Line(point, tuple(marks), cells, sort)


def _measure(point: Point, interval: Interval | None, *, has_unit: bool = True) -> TableCell:
    own = point.setting.measured
    return (
        TableCell(NOTHING) if own is None else estimate(interval, own.scale, own.digits, own.suffix if has_unit else "")
    )


def _extremes_told(metric: Metric, late: float | None, best: float | None) -> TableCell:
    if late is None or best is None:
        return TableCell(NOTHING)
    return TableCell(f"{late * metric.scale:.{metric.digits}f} / {metric.format(best)}")


def _light(own: Judgement) -> str:
    if own.broken:
        return "breaks the policy"
    return "within the policy" if own.is_sure else "undecided"


def _epsilon(point: Point) -> TableCell:
    if point.guarantee is None or not math.isfinite(point.epsilon):
        return TableCell("none")
    trusted = "" if point.guarantee.holds_against_server else "server trusted"
    return TableCell(f"{point.epsilon:.3g}", trusted or f"delta {point.guarantee.delta:g}")


def _sortable(interval: Interval | None) -> float:
    return _LAST if interval is None else interval.value


def _extremes(point: Point, metric: Metric) -> tuple[float | None, float | None]:
    """Return 95th percentile and maximum of a metric of the strongest attack."""
    victims = point.setting.victims(point.strongest.attack) if point.strongest else []
    values = [value for victim in victims for value in victim.values.get(metric.name, ())]
    return (float(np.percentile(values, 95)), max(values)) if values else (None, None)


def _row(point: Point, metrics: Sequence[Metric]) -> tuple[Any, ...]:
    risk_, own = point.strongest, point.guarantee
    is_bounded = own is not None and math.isfinite(own.epsilon)
    return (
        point.name,
        point.setting.family,
        point.setting.measure,
        *_three(point.utility),
        *_three(point.loss),
        risk_.attack if risk_ else None,
        *_three(risk_.rate if risk_ else None),
        *(bound for own in metrics for bound in _extremes(point, own)),
        *((point.reach.psnr, point.reach.share) if point.reach else (None, None)),
        *_three(point.fewer),
        point.p,
        *_three(point.membership[1] if point.membership else None),
        own.epsilon if own and is_bounded else None,
        own.delta if own and is_bounded else None,
        point.seconds.value,
        point.processor_seconds,
        point.peak_memory,
        point.attack_seconds,
        4 * point.parameters,
        len(point.setting.cells),
        risk_.rate.n if risk_ else 0,
    )


def _three(interval: Interval | None) -> tuple[float | None, ...]:
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
