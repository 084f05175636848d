"""Tables of a sweep: all settings as page and CSV, thresholds, attacks and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fedsim.core import registry
from fedsim.core.metric import Metric
from fedsim.judgement.limits import LimitState
from fedsim.record import Interval
from fedsim.report.document import Measurement, Table, TableCell, TableRow, number
from fedsim.report.sweep.curves import shares_above
from fedsim.report.sweep.gathered import SweepRecords, SweepSetting
from fedsim.report.sweep.pareto import Place, dominate
from fedsim.report.sweep.points import Point, attackers, measure, risk
from fedsim.report.sweep.verdict import judge_setting
from fedsim.report.tables.figures import NOTHING, estimate, measurement_of, success_cell

_POLICY_TAGS: Mapping[LimitState, str] = {
    "kept": "within the policy",
    "undecided": "undecided",
    "broken": "breaks the policy",
}
_LAST = 1e300
_FIRST_SHOWN, _ALSO_SHOWN = 5, ("p (Holm)", "epsilon")

_FIRST: dict[str, str] = {
    "setting": "the sweep's settings",
    "defense": "names of the defenses and components in force",
    "measure": "metric on the test set",
    "utility": "the figure of that, mean over seeds",
    "utility_low": "Student's interval over seeds",
    "utility_high": "",
    "utility_loss": "utility of the undefended control minus this utility, seed by seed",
    "utility_loss_low": "",
    "utility_loss_high": "",
    "attack": "the attack that recovers most",
    "success": "share of images or sentences that it recovers",
    "success_low": "the wider of Wilson's interval over victims and a bootstrap of seeds and victims",
    "success_high": "",
}
_REST: dict[str, str] = {
    "ceiling_psnr": "median PSNR in dB that the ideal attacker reaches, to first order; empty if not requested",
    "ceiling_success": "share of images that its guess would recover",
    "difference": "success minus that on the control, victim by victim",
    "difference_low": "two-stage bootstrap",
    "difference_high": "",
    "p_holm": "paired sign-flip test of that difference, after Holm over all settings",
    "members_found": "by the best membership attack at 1% false alarms",
    "members_found_low": "Wilson",
    "members_found_high": "",
    "epsilon": "of the weakest guarantee over seeds; empty without a guarantee",
    "delta": "of that guarantee",
    "train_seconds": "wall time of a client's training",
    "train_processor_seconds": "processor time of a client's training, repeated alone in its process",
    "train_peak_memory": "bytes that this process held at most meanwhile, programs and data included",
    "attack_seconds": "wall time of an attack on a single victim",
    "upload_bytes": "a client's update as 32-bit numbers, uncompressed",
    "seeds": "number of runs",
    "victims": "number of attacked updates over all seeds",
}


def columns(sweep: SweepRecords) -> dict[str, str]:
    """Return the CSV columns with their meanings."""
    extremes = {
        name: meaning
        for metric in counted_metrics(sweep)
        for name, meaning in (
            (f"{metric.name}_p95", f"95th percentile of its {metric.title}{_unit(metric)}"),
            (f"{metric.name}_max", f"its best {metric.noun}{_unit(metric)}"),
        )
    }
    return {**_FIRST, **extremes, **_REST}


def counted_metrics(sweep: SweepRecords) -> list[Metric]:
    """Return the metrics with thresholds for counting examples: installed and recorded metrics."""
    known = {**registry.every_metric(), **sweep.judge.metrics_by_name}.values()
    return [metric for metric in known if metric.steps]


def _unit(metric: Metric) -> str:
    return f", {metric.unit}" if metric.unit else ""


def rows(sweep: SweepRecords, points: Sequence[Point]) -> list[tuple[Any, ...]]:
    """Return the CSV rows, in the order of `columns`."""
    metrics = counted_metrics(sweep)
    return [_row(point, metrics) for point in points]


def settings_table(sweep: SweepRecords, points: Sequence[Point]) -> Table:
    """Return the sortable table of all settings, tagged by policy state, control and dominance."""
    shown, beaten = _setting_columns(sweep, points), _beaten(points)
    headings = ["setting", *(number(heading) for heading, _ in shown)]
    lines = [
        TableRow(
            (
                TableCell(point.name, tags=_tags(sweep, point, is_beaten=is_beaten), sort_by=point.name),
                *(cell(point) for _, cell in shown),
            ),
            level="muted" if is_beaten else "",
        )
        for point in points
        for is_beaten in [point.name in beaten and not point.setting.is_undefended]
    ]
    return Table.of("All settings", headings, lines)


def shorten_table(table: Table) -> Table:
    """Return the table of all settings reduced to the columns of the summary."""
    heads = enumerate(table.headings)
    return table.with_columns([index < _FIRST_SHOWN or heading.text in _ALSO_SHOWN for index, heading in heads])


def thresholds(sweep: SweepRecords, points: Sequence[Point]) -> list[Table]:
    """Return a table per metric with thresholds: P(score > t) of each setting's strongest attack."""
    attacked = [point for point in points if point.strongest]
    return [_thresholds(metric, attacked) for metric in counted_metrics(sweep) if attacked]


def _thresholds(metric: Metric, attacked: Sequence[Point]) -> Table:
    steps = (number(f"{step:g} {metric.unit}".strip()) for step in metric.steps)
    lines = [TableRow.of(p.name, *(f"{100 * share:.0f}%" for share in _shares(p, metric))) for p in attacked]
    title = f"Share of examples above thresholds of {metric.title}"
    return Table.of(title, [f"{metric.title} above", *steps], lines, is_sortable=False)


def _shares(point: Point, metric: Metric) -> np.ndarray:
    assert point.strongest
    return shares_above(point.setting.victims(point.strongest.attack), metric.name, np.array(metric.steps))


def attack_table(sweep: SweepRecords, points: Sequence[Point]) -> Table:
    """Return the table of every attack on every setting, including attacks without a guess."""
    lines = [_attack_row(sweep, point.setting, label) for point in points for label in point.setting.labels]
    headings = ("setting", "attack", number("success"), number("victims"), "why it gave no guess")
    return Table.of("Every attack on every setting", headings, lines, is_sortable=False, layout="long")


def _attack_row(sweep: SweepRecords, setting: SweepSetting, label: str) -> TableRow:
    success = risk(setting, label, sweep.judge)
    reasons = dict.fromkeys(reason for tried in setting.attempt(label) for reason in tried.reasons)
    tags = () if label in attackers(setting) else ("control",)
    return TableRow.of(
        setting.name,
        TableCell(label, tags=tags),
        success_cell(success.rate) if success else "failed",
        f"{len(setting.victims(label))}",
        "; ".join(list(reasons)[:2]),
    )


def costs(points: Sequence[Point]) -> Table:
    """Return the table of time, memory and upload bytes per setting."""
    headings = ["training, s", "against the first row", "processor, s", "peak memory, MiB", "attack, s"]
    numbers = [number(heading) for heading in (*headings, "bytes up a client and round")]
    first = points[0].seconds.value
    return Table.of("Cost and time", ["setting", *numbers], [_cost(p, first) for p in points], is_sortable=False)


def _cost(point: Point, first: float) -> TableRow:
    return TableRow.of(
        point.name,
        f"{point.seconds.value:.3g}",
        f"{point.seconds.value / first:.2f}x" if first > 0 else NOTHING,
        NOTHING if point.processor_seconds is None else f"{point.processor_seconds:.3g}",
        NOTHING if point.peak_memory is None else f"{point.peak_memory / 2**20:,.0f}",
        f"{point.attack_seconds:.3g}",
        f"{point.upload_bytes:,}",
    )


def estimate_cell(interval: Interval | None, scale: float, digits: int, unit: str = "") -> TableCell:
    """Return a cell with value and interval, sorted by value; missing values sort last."""
    return replace(estimate(interval, scale, digits, unit), sort_by=_order(interval.value if interval else None))


def _setting_columns(sweep: SweepRecords, points: Sequence[Point]) -> list[tuple[str, Callable[[Point], TableCell]]]:
    """Return the columns of the settings table: heading, and cell of a point."""
    name = measure(points)
    return [
        (name, _utility_cell),
        (f"{name} loss", _loss_cell),
        ("attack success", _success),
        ("strongest attack", lambda p: _plain(p.strongest.attack if p.strongest else NOTHING)),
        *((f"95th / best {metric.title}", partial(_late_and_best, metric)) for metric in counted_metrics(sweep)),
        ("ideal attacker", _ideal),
        ("p (Holm)", _p),
        ("members found", lambda p: _rate_cell("members_found", p.membership.rate if p.membership else None, 1)),
        ("epsilon", _epsilon),
        ("train s", lambda p: TableCell(f"{p.seconds.value:.2g}", sort_by=_order(p.seconds.value))),
        ("bytes up", lambda p: TableCell(f"{p.upload_bytes:,}", sort_by=_order(p.upload_bytes))),
        ("seeds, victims", _counts),
    ]


def _utility_cell(point: Point) -> TableCell:
    metric = point.setting.test_metric
    if metric is None or point.utility is None:
        return estimate_cell(None, 1.0, 0)
    cell = estimate_cell(point.utility, metric.scale, metric.digits, metric.suffix)
    return replace(cell, measurement=measurement_of(point.utility, metric))


def _loss_cell(point: Point) -> TableCell:
    """Return the control's utility minus that of the setting: the better setting loses least."""
    metric = point.setting.test_metric
    if metric is None or point.loss is None:
        return estimate_cell(None, 1.0, 0)
    measured = measurement_of(point.loss, metric)
    better = "lower" if metric.better == "higher" else "higher"
    cell = estimate_cell(point.loss, metric.scale, metric.digits)
    return replace(cell, measurement=replace(measured, metric=f"{metric.name}_loss", better=better))


def _success(point: Point) -> TableCell:
    if point.has_failed:
        return TableCell("failed", sort_by=_order(None))
    return _rate_cell("success", point.strongest.rate if point.strongest else None, 0)


def _rate_cell(metric: str, rate: Interval | None, digits: int) -> TableCell:
    """Return the cell of a rate in per cent; a reader decides whether attacks or defenses are compared."""
    cell = estimate_cell(rate, 100, digits, "%")
    if rate is None:
        return cell
    return replace(cell, measurement=Measurement(metric, rate.value, rate.low, rate.high, rate.n))


def _late_and_best(metric: Metric, point: Point) -> TableCell:
    late, best = _extremes(point, metric)
    if late is None or best is None:
        return TableCell(NOTHING, sort_by=_order(None))
    return TableCell(f"{late * metric.scale:.{metric.digits}f} / {metric.format(best)}", sort_by=_order(best))


def _ideal(point: Point) -> TableCell:
    if point.reach is None:
        return TableCell(NOTHING, sort_by=_order(None))
    return TableCell(point.reach.text, sort_by=_order(point.reach.psnr))


def _p(point: Point) -> TableCell:
    if point.p is None:
        return TableCell(NOTHING, sort_by=_order(None))
    return TableCell(f"{point.p:.3f}" if point.p >= 0.001 else "< 0.001", sort_by=_order(point.p))  # noqa: PLR2004 - three digits


def _epsilon(point: Point) -> TableCell:
    if point.guarantee is None or not math.isfinite(point.epsilon):
        return TableCell("none", sort_by=_order(None))
    trusted = "" if point.guarantee.holds_against_server else "server trusted"
    note = trusted or f"delta {point.guarantee.delta:g}"
    return TableCell(f"{point.epsilon:.3g}", note, sort_by=_order(point.epsilon))


def _counts(point: Point) -> TableCell:
    victims = point.strongest.rate.n if point.strongest else 0
    return TableCell(f"{len(point.setting.cells)}, {victims}", sort_by=_order(victims))


def _plain(text: str) -> TableCell:
    return TableCell(text, sort_by=text)


def _order(value: float | None) -> str:
    """Return the sort key of a number; None sorts last."""
    return str(_LAST if value is None else value)


def _tags(sweep: SweepRecords, point: Point, *, is_beaten: bool) -> tuple[str, ...]:
    policy = "" if sweep.policy.is_empty else _POLICY_TAGS[judge_setting(point, sweep.policy).state]
    control = "control" if point.setting.is_undefended else ""
    return tuple(filter(None, (policy, control, "dominated" if is_beaten else "")))


def _beaten(points: Sequence[Point]) -> set[str]:
    places = [Place(p, p.strongest.attack, p.utility, p.strongest.rate) for p in points if p.strongest and p.utility]
    return {place.point.name for place, is_beaten in zip(places, dominate(places), strict=True) if is_beaten}


def _extremes(point: Point, metric: Metric) -> tuple[float | None, float | None]:
    """Return the 95th percentile and the maximum of a metric under the strongest attack."""
    victims = point.setting.victims(point.strongest.attack) if point.strongest else []
    values = [value for victim in victims for value in victim.values.get(metric.name, ())]
    return (float(np.percentile(values, 95)), max(values)) if values else (None, None)


def _row(point: Point, metrics: Sequence[Metric]) -> tuple[Any, ...]:
    strongest = point.strongest
    bounded = point.guarantee if math.isfinite(point.epsilon) else None
    return (
        point.name,
        point.setting.family,
        point.setting.measure,
        *_three(point.utility),
        *_three(point.loss),
        strongest.attack if strongest else None,
        *_three(strongest.rate if strongest else None),
        *(bound for metric in metrics for bound in _extremes(point, metric)),
        *((point.reach.psnr, point.reach.share) if point.reach else (None, None)),
        *_three(point.success_difference),
        point.p,
        *_three(point.membership.rate if point.membership else None),
        bounded.epsilon if bounded else None,
        bounded.delta if bounded else None,
        point.seconds.value,
        point.processor_seconds,
        point.peak_memory,
        point.attack_seconds,
        point.upload_bytes,
        len(point.setting.cells),
        strongest.rate.n if strongest else 0,
    )


def _three(interval: Interval | None) -> tuple[float | None, ...]:
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
