"""Curves of whole distributions: share of examples above a score, and ROC curves of membership attacks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from fedsim.core import registry
from fedsim.core.metric import Metric
from fedsim.core.sanitize import slug
from fedsim.report.drawing import DASHES, PALETTE, Picture, apply_style, blank, picture
from fedsim.report.sweep.cells import Attacked
from fedsim.report.sweep.gathered import UNDEFENDED, SweepRecords, SweepSetting
from fedsim.report.sweep.points import Point

_MOST_FAMILIES = 8
_MOST_LINES = len(PALETTE) * len(DASHES)
_GRID = 41


def families(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Return the settings of each figure: a family of defenses, preceded by the undefended controls."""
    controls = [point for point in points if point.setting.is_undefended]
    names = dict.fromkeys(point.setting.family for point in points if not point.setting.is_undefended)
    by_family = {name: [*controls, *(p for p in points if p.setting.family == name)] for name in names}
    if not by_family and controls:
        return {UNDEFENDED: controls}
    return dict(islice(by_family.items(), _MOST_FAMILIES))


@apply_style()
def exceedance(sweep: SweepRecords, points: Sequence[Point]) -> list[Picture]:
    """Return a picture per family: P(score > t) of each distribution metric, under each setting's strongest attack."""
    attacked = [point for point in points if point.strongest]
    known = {**registry.every_metric(), **sweep.judge.metrics_by_name}.values()
    given = {name for point in attacked for victim in _victims(point) for name in victim.values}
    metrics = [metric for metric in known if metric.spread and metric.name in given]
    if not metrics:
        return []
    return [_exceedance(name, members, metrics) for name, members in families(attacked).items()]


@apply_style()
def rocs(points: Sequence[Point]) -> list[Picture]:
    """Return a picture per family: log-log ROC curve of the best membership attack of each setting."""
    judged = [point for point in points if point.membership]
    return [_roc(name, members) for name, members in families(judged).items()]


def shares_above(victims: Sequence[Attacked], score: str, thresholds: np.ndarray) -> np.ndarray:
    """Return P(score > t) for every t, averaged over victims; victims without a guess are skipped."""
    guessed = [values for victim in victims if len(values := np.asarray(victim.values.get(score, ())))]
    shares = [(values[:, None] > thresholds).mean(0) for values in guessed]
    return np.mean(shares, axis=0) if shares else np.zeros(len(thresholds))


def average_roc(setting: SweepSetting, label: str) -> list[tuple[float, float]]:
    """Return (FPR, TPR) of a membership attack; the TPR is the mean over seeds at the largest FPR not above it."""
    curves = [curve.points for curve in setting.curves(label)]
    rates = sorted({fpr for curve in curves for fpr, _ in curve})
    return [(fpr, float(np.mean([_tpr_at(curve, fpr) for curve in curves]))) for fpr in rates]


def _tpr_at(roc: Sequence[tuple[float, float]], fpr: float) -> float:
    return max((tpr for rate, tpr in roc if rate <= fpr), default=0.0)


def _exceedance(name: str, points: Sequence[Point], metrics: Sequence[Metric]) -> Picture:
    figure = blank(3.6 * len(metrics), 3.6)
    rows: list[tuple[str, str, str, float, float]] = []
    grid = figure.subplots(1, len(metrics), squeeze=False)[0]
    for index, (axes, metric) in enumerate(zip(grid, metrics, strict=True)):
        low, high = _range(points, metric)
        thresholds = np.linspace(low, high * 1.02 or 1.0, _GRID)
        for place, point in enumerate(points[:_MOST_LINES]):
            shares = shares_above(_victims(point), metric.name, thresholds)
            colour, dash = _line(place, point)
            label = f"_{point.name}" if index else point.name
            axes.plot(thresholds, 100 * shares, dash, color=colour, lw=1.6, label=label)
            attack = point.strongest.attack if point.strongest else ""
            rows += [(point.name, attack, metric.name, *pair) for pair in zip(thresholds, shares, strict=True)]
        axes.set(xlabel=f"t, {metric.title} {metric.unit}".strip(), ylim=(-2, 104))
        axes.set(ylabel=f"{metric.noun}s with {metric.title} > t (%)")
    figure.suptitle(name, fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    ends = " ".join(f"{p.name}: best {_best(p, metrics[0])}." for p in points[:_MOST_LINES])
    titles = " and ".join(metric.title for metric in metrics)
    return picture(
        f"exceedance-{slug(name)}",
        figure,
        arm=name,
        alt=f"Share of examples with {titles} above t for {name}, strongest attack of each setting. {ends}",
        columns=("setting", "attack", "score", "t", "share_above"),
        rows=rows,
    )


def _roc(name: str, points: Sequence[Point]) -> Picture:
    figure = blank(5.0, 4.4)
    axes = figure.subplots()
    rows: list[tuple[str, str, float, float]] = []
    ends: list[str] = []
    non_members = [curve.non_members for p in points if p.membership for curve in p.setting.curves(p.membership.attack)]
    least = 1 / max(non_members)
    axes.plot([least / 2, 1], [least / 2, 1], color="#999999", lw=1, label="guessing")
    axes.axvline(least, color="#555555", lw=1, ls=(0, (1, 2)), label="smallest rate that n shows")
    for index, point in enumerate(points[:_MOST_LINES]):
        assert point.membership
        label, rate = point.membership.attack, point.membership.rate
        curve = average_roc(point.setting, label)
        colour, dash = _line(index, point)
        seen = [(max(fpr, least / 2), tpr) for fpr, tpr in curve if tpr > 0]
        axes.step(*zip(*seen, strict=True), dash, where="post", color=colour, lw=1.6, label=f"{point.name}: {label}")
        rows += [(point.name, label, *pair) for pair in curve]
        ends.append(f"{point.name}: {rate.value:.1%} of the members at 1% false alarms.")
    axes.set(xscale="log", yscale="log", xlim=(least / 2, 1), ylim=(least / 2, 1.1), title=name)
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate")
    figure.legend(loc="outside lower center", ncols=1, fontsize=8)
    alt = f"True-positive over false-positive rate of the best membership attacks, {name}. {' '.join(ends)}"
    columns = ("setting", "attack", "fpr", "tpr")
    return picture(f"roc-{slug(name)}", figure, arm=name, alt=alt, columns=columns, rows=rows)


def _victims(point: Point) -> list[Attacked]:
    return point.setting.victims(point.strongest.attack) if point.strongest else []


def _line(index: int, point: Point) -> tuple[str, str]:
    if point.setting.is_undefended:
        return "#000000", DASHES[index % len(DASHES)]
    return PALETTE[index % (len(PALETTE) - 1)], DASHES[index % len(DASHES)]


def _range(points: Sequence[Point], metric: Metric) -> tuple[float, float]:
    """Return the range of thresholds: up to the metric's upper limit, or to its largest value if it has no limit."""
    values = [v for p in points for victim in _victims(p) for v in victim.values.get(metric.name, ())]
    highest = metric.limits[1]
    if highest is None:
        return 0.0, max(values, default=1.0)
    return -0.1 * highest, highest


def _best(point: Point, metric: Metric) -> str:
    values = [value for victim in _victims(point) for value in victim.values.get(metric.name, ())]
    return metric.tell(max(values)) if values else "none"
