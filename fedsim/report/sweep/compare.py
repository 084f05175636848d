"""Comparison of two sweeps: differences in each common setting, on the same seeds and victims."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import ttest_1samp

from fedsim.core.errors import FedsimError
from fedsim.core.metric import Metric
from fedsim.metrics.comparison import holm, mean_over_seeds
from fedsim.record import SIGNIFICANT, Interval
from fedsim.report.document import Block, Table, TableCell, TableRow, number, paragraph
from fedsim.report.sweep.gathered import SweepRecords, SweepSetting, gather
from fedsim.report.sweep.points import difference, gains, strongest_attack

Better = Literal["A", "B", "no difference shown", "nothing to pair"]


class Difference(NamedTuple):
    """B minus A of a quantity, and the better side after the p-value is adjusted for all comparisons."""

    value: Interval | None
    p: float | None
    better: Better


class SettingCompared(NamedTuple):
    """A common setting; less attack success and more utility are better."""

    name: str
    success: Difference
    utility: Difference


class FindingCompared(NamedTuple):
    """A finding of a question common to both sweeps in a setting: both values and their difference."""

    name: str
    label: str
    metric: Metric
    values: tuple[float, float]
    difference: Difference


class SweepComparison(NamedTuple):
    """All common settings, and the names of the settings that only sweep A or only sweep B has."""

    titles: tuple[str, str]
    rows: tuple[SettingCompared, ...]
    findings: tuple[FindingCompared, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def compare(first: Path, second: Path) -> SweepComparison:
    """Compare two sweeps or runs.

    Success is that of each side's strongest attack, paired by seed, round and client (sign-flip test); utility is
    paired by seed (Student's t-test). The p-values of both, over all settings, are adjusted by Holm.

    Raises:
        FedsimError: a folder is neither a sweep nor a run, or the sweeps have no setting in common.
    """
    first_sweep, second_sweep = gather(first), gather(second)
    a, b = ({json.dumps(one.values): one for one in sweep.settings} for sweep in (first_sweep, second_sweep))
    common = [key for key in a if key in b]
    if not common:
        raise FedsimError(
            f"{first} and {second} have no setting in common: the first has {_setting_names(first_sweep)}, the second "
            f"{_setting_names(second_sweep)}. Settings are the same when the sweep and the arms set the "
            "same keys to the same values."
        )
    measured = [
        (a[key].name, _success(a[key], b[key], first_sweep), _utility(a[key], b[key], first_sweep)) for key in common
    ]
    adjusted = iter(holm([p for _, *pair in measured for _, p in pair if p is not None]))
    rows = [
        SettingCompared(name, _judge(*success, adjusted, more_is="A"), _judge(*utility, adjusted, more_is="B"))
        for name, success, utility in measured
    ]
    findings = tuple(finding for key in common for finding in _findings(a[key], b[key], first_sweep))
    return SweepComparison((first_sweep.title, second_sweep.title), tuple(rows), findings, _names(a, b), _names(b, a))


def comparison_blocks(comparison: SweepComparison, first: Path, second: Path) -> Iterator[Block]:
    """Yield the comparison of two folders as document blocks."""
    for side, title, path in zip("AB", comparison.titles, (first, second), strict=True):
        yield paragraph(f"{side}: {title} ({path})")
    yield paragraph("B minus A in points, 95% interval, p after Holm.")
    respects = [head for subject in ("attack success", "utility") for head in (number(subject), number("p"), "better")]
    rows = [TableRow.of(row.name, *_cells(row.success), *_cells(row.utility)) for row in comparison.rows]
    yield Table.of("Settings that both have", ["setting", *respects], rows)
    if comparison.findings:
        headings = ("setting", "finding", "figure", *map(number, "ABp"), "better")
        yield Table.of("Findings that both have", headings, [_finding_row(finding) for finding in comparison.findings])
    for side, names in (("A", comparison.only_a), ("B", comparison.only_b)):
        if names:
            yield paragraph(f"Only {side} has: {'; '.join(names)}")


def _cells(respect: Difference) -> Iterator[TableCell | str]:
    if respect.value is None:
        yield from ("", "", respect.better)
        return
    interval = (
        ""
        if respect.value.low is None
        else f"{100 * respect.value.low:+.1f} to {100 * (respect.value.high or 0.0):+.1f}"
    )
    yield TableCell(f"{100 * respect.value.value:+.1f}", interval)
    yield from (_p(respect), respect.better)


def _finding_row(comparison: FindingCompared) -> TableRow:
    values = map(comparison.metric.format, comparison.values)
    return TableRow.of(
        comparison.name,
        comparison.label,
        comparison.metric.title,
        *values,
        _p(comparison.difference),
        comparison.difference.better,
    )


def _p(difference: Difference) -> str:
    return "" if difference.p is None else f"{difference.p:.3f}"


def _success(a: SweepSetting, b: SweepSetting, sweep: SweepRecords) -> tuple[Interval | None, float | None]:
    first_attack, second_attack = strongest_attack(a), strongest_attack(b)
    return (
        difference(b, second_attack, a, first_attack, sweep.judge) if first_attack and second_attack else (None, None)
    )


def _utility(a: SweepSetting, b: SweepSetting, sweep: SweepRecords) -> tuple[Interval | None, float | None]:
    differences = gains(a, b)
    if not differences:
        return None, None
    return mean_over_seeds(differences, sweep.judge.scoring.confidence), _t_test(differences)


def _findings(a: SweepSetting, b: SweepSetting, sweep: SweepRecords) -> Iterator[FindingCompared]:
    """Yield the findings of both settings, B minus A, paired by seed; p-values are not adjusted."""
    first_figures, second_figures = _figures(a), _figures(b)
    for key in (key for key in first_figures if key in second_figures):
        label, name = key
        seeds = first_figures[key].keys() & second_figures[key].keys()
        if not seeds:
            continue
        metric = sweep.judge.metrics_by_name[name]
        differences = [second_figures[key][seed] - first_figures[key][seed] for seed in sorted(seeds)]
        value, p = mean_over_seeds(differences, sweep.judge.scoring.confidence), _t_test(differences)
        more_is: Literal["A", "B"] = "A" if metric.better == "higher" else "B"
        values = (fmean(first_figures[key].values()), fmean(second_figures[key].values()))
        yield FindingCompared(a.name, label, metric, values, _judge(value, p, iter((p,)), more_is=more_is))


def _figures(setting: SweepSetting) -> dict[tuple[str, str], dict[int, float]]:
    """Return the values of attack findings by (label, metric), each by seed."""
    figures: dict[tuple[str, str], dict[int, float]] = {}
    for cell in setting.cells:
        for finding in cell.findings:
            if finding.role == "attack" and finding.value is not None and not finding.invalid:
                figures.setdefault((finding.label, finding.metric), {})[cell.seed] = finding.value.value
    return figures


def _t_test(differences: Sequence[float]) -> float:
    if len(differences) == 1:
        return 1.0
    if np.ptp(differences) == 0.0:
        return 1.0 if differences[0] == 0.0 else 0.0
    return float(np.asarray(ttest_1samp(differences, 0.0))[1])


def _judge(value: Interval | None, p: float | None, left: Iterator[float], more_is: Literal["A", "B"]) -> Difference:
    if value is None or p is None:
        return Difference(value, p, "nothing to pair")
    p = next(left)
    if p >= SIGNIFICANT:
        return Difference(value, p, "no difference shown")
    less_is: Better = "B" if more_is == "A" else "A"
    return Difference(value, p, more_is if value.value > 0 else less_is)


def _names(side: Mapping[str, SweepSetting], settings: Mapping[str, SweepSetting]) -> tuple[str, ...]:
    return tuple(setting.name for key, setting in side.items() if key not in settings)


def _setting_names(sweep: SweepRecords) -> str:
    names = [setting.name for setting in sweep.settings[:3]]
    return ("; ".join(names) + (" ..." if len(sweep.settings) > len(names) else "")) or "none"
