"""The table of settings, for people and as CSV, and the other tables of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedsim.record import CORRELATION, Interval
from fedsim.report.sweep.cells import Setting, Sweep
from fedsim.report.sweep.curves import shares_above
from fedsim.report.sweep.pareto import Place, dominated
from fedsim.report.sweep.points import Point, attackers, measured, risk
from fedsim.report.sweep.verdict import judge
from fedsim.report.tables import NOTHING, Estimate, estimate

COLUMNS: dict[str, str] = {
    "setting": "what the sweep set",
    "defense": "names of the defenses and components in force",
    "measure": "what was measured on the test set: accuracy, span F1 or Spearman correlation",
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
    "psnr_p95": "95th percentile of its PSNR, dB",
    "psnr_max": "its best image, dB",
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
    cells: tuple[Estimate, ...]
    sort: tuple[float | str, ...]


_HEADINGS = (
    "attack success",
    "strongest attack",
    "95th / best PSNR",
    "p (Holm)",
    "members found",
    "epsilon",
    "train s",
)
_HEADINGS = (*_HEADINGS, "bytes up", "seeds, victims")


def headings(points: Sequence[Point]) -> tuple[str, ...]:
    """Return the headings of the table; a correlation stands there 100 times as large."""
    measure = measured(points)
    return (f"{measure} x 100" if measure == CORRELATION else measure, f"{measure} loss", *_HEADINGS)


def lines(sweep: Sweep, points: Sequence[Point]) -> list[Line]:
    """Return the sortable table."""
    beaten = _beaten(points)
    return [_line(sweep, point, point.name in beaten) for point in points]


def rows(points: Sequence[Point]) -> list[tuple[Any, ...]]:
    """Return the table as numbers, in the order of `COLUMNS`."""
    return [_row(point) for point in points]


class Threshold(NamedTuple):
    """Success of one setting at several thresholds of one score."""

    setting: str
    shares: tuple[str, ...]


_LAST = 1e300
PSNR_STEPS = (15.0, 20.0, 25.0, 30.0, 40.0)


def thresholds(points: Sequence[Point]) -> list[Threshold]:
    """Return P(PSNR > t) of each setting's strongest attack at a few t."""
    return [
        Threshold(p.name, tuple(f"{100 * share:.0f}%" for share in shares))
        for p in points
        if p.strongest
        for shares in [shares_above(p.setting.victims(p.strongest.attack), "psnr", np.array(PSNR_STEPS))]
    ]


class ByAttack(NamedTuple):
    """One attack on one setting."""

    setting: str
    attack: str
    is_control: bool
    success: Estimate
    victims: int
    reason: str


def by_attack(sweep: Sweep, points: Sequence[Point]) -> list[ByAttack]:
    """Return every attack on every setting, also those that gave no guess."""
    return [_by_attack(sweep, point.setting, label) for point in points for label in point.setting.labels]


def _by_attack(sweep: Sweep, setting: Setting, label: str) -> ByAttack:
    found = risk(setting, label, sweep.judge)
    reasons = dict.fromkeys(reason for tried in setting.tried(label) for reason in tried.reasons)
    has_guess = any(victim.psnr or victim.rouge for victim in setting.victims(label))
    success = estimate(found.rate, 100, 0, "%") if found and has_guess else Estimate(NOTHING)
    told = "; ".join(list(reasons)[:2])
    is_control = label not in attackers(setting)
    return ByAttack(setting.name, label, is_control, success, len(setting.victims(label)), told)


def _beaten(points: Sequence[Point]) -> set[str]:
    places = [Place(p, p.strongest.attack, p.utility, p.strongest.rate) for p in points if p.strongest and p.utility]
    return {place.point.name for place, is_beaten in zip(places, dominated(places), strict=True) if is_beaten}


def _line(sweep: Sweep, point: Point, is_beaten: bool) -> Line:
    p = NOTHING if point.p is None else f"{point.p:.3f}" if point.p >= 0.001 else "< 0.001"  # noqa: PLR2004 - three digits
    late, best = _extremes(point)
    members = point.membership[1] if point.membership else None
    success = point.strongest.rate if point.strongest else None
    victims = success.n if success else 0
    size = 4 * point.parameters
    cells = (
        estimate(point.utility, 100, 1, "" if point.setting.measure == CORRELATION else "%"),
        estimate(point.loss, 100, 1),
        estimate(success, 100, 0, "%"),
        Estimate(point.strongest.attack if point.strongest else NOTHING),
        Estimate(NOTHING if best is None else f"{late:.1f} / {best:.1f} dB"),
        Estimate(p),
        estimate(members, 100, 1, "%"),
        _epsilon(point),
        Estimate(f"{point.seconds.value:.2g}"),
        Estimate(f"{size:,}"),
        Estimate(f"{len(point.setting.cells)}, {victims}"),
    )
    sort = (
        _sortable(point.utility),
        _sortable(point.loss),
        _sortable(success),
        cells[3].value,
        _LAST if best is None else best,
        _LAST if point.p is None else point.p,
        _sortable(members),
        min(point.epsilon, _LAST),
        point.seconds.value,
        size,
        victims,
    )
    marks = [] if sweep.policy.is_empty else [_light(judge(point, sweep.policy).broken)]
    marks += ["control"] if point.setting.is_undefended else []
    marks += ["dominated"] if is_beaten and not point.setting.is_undefended else []
    return Line(point, tuple(marks), cells, sort)


def _light(broken: Sequence[Any]) -> str:
    return "breaks the policy" if broken else "within the policy"


def _epsilon(point: Point) -> Estimate:
    if point.guarantee is None or not math.isfinite(point.epsilon):
        return Estimate("none")
    trusted = "" if point.guarantee.holds_against_server else "server trusted"
    return Estimate(f"{point.epsilon:.3g}", trusted or f"delta {point.guarantee.delta:g}")


def _sortable(interval: Interval | None) -> float:
    return _LAST if interval is None else interval.value


def _extremes(point: Point) -> tuple[float | None, float | None]:
    """Return 95th percentile and maximum of the PSNR of the strongest attack."""
    victims = point.setting.victims(point.strongest.attack) if point.strongest else []
    values = [value for victim in victims for value in victim.psnr]
    return (float(np.percentile(values, 95)), max(values)) if values else (None, None)


def _row(point: Point) -> tuple[Any, ...]:
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
        *_extremes(point),
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
