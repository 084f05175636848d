"""Figures of a run's report, each with its data. An attack has the same colour in every figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np

from fedsim.core.metric import Metric
from fedsim.core.sanitize import slug
from fedsim.record import ArmRecord, AttackFinding, Finding, PartitionRecord, RunRecord
from fedsim.report.ceilings import COLUMNS, BoundComparison
from fedsim.report.document import ImageGrid, Picture
from fedsim.report.drawing import (
    DASHES,
    HATCHES,
    PALETTE,
    SIZE,
    Rows,
    apply_style,
    blank,
    canvas,
    picture,
    utility_axis,
)
from fedsim.report.image_grid import sheet_name
from fedsim.report.tables.clients import CAUSES, ArmParticipation, Ownership
from fedsim.report.verdict import RunJudge

_Styles = dict[str, tuple[str, str]]

_OTHERS = ("other classes", "#999999")
_MOST_CLASSES = len(PALETTE) * len(HATCHES) - 1
_TILE, _MARGIN = 100, 3
_SHEET_DPI = 100


class _Limits(NamedTuple):
    """Axis limits shared by the curves of all arms."""

    iterations: float
    lowest: float
    highest: float


@apply_style()
def attack_curves(record: RunRecord) -> list[Picture]:
    """Return a picture per arm: each search's objective over iterations, a line per victim, on common axes."""
    points = {number: _curve_points(arm) for number, arm in enumerate(record.arms, 1)}
    all_points = [point for of_arm in points.values() for point in of_arm]
    if not all_points:
        return []
    limits = _Limits(max(p[4] for p in all_points), min(p[5] for p in all_points), max(p[5] for p in all_points))
    styles = _styles(record)
    return [
        _curves_of(record.arms[number - 1].name, number, of_arm, styles, limits)
        for number, of_arm in points.items()
        if of_arm
    ]


@apply_style()
def exceedance(record: RunRecord, judge: RunJudge) -> list[Picture]:
    """Return a picture per arm: for every attack, the share of examples with a score above t."""
    metric = next(iter(judge.spread), None)
    if metric is None:
        return []
    by_number = {
        number: arm
        for number, arm in enumerate(record.arms, 1)
        if any(_scores(attack, metric) for attack in arm.attacks)
    }
    styles = _styles(record)
    highest = max(
        (v for arm in by_number.values() for attack in arm.attacks for v in _scores(attack, metric)), default=1.0
    )
    return [_exceedance_of(arm, number, styles, highest, judge, metric) for number, arm in by_number.items()]


@apply_style()
def utility(record: RunRecord, judge: RunJudge) -> list[Picture]:
    """Return a picture per test metric: its value over rounds, a line per arm; empty if nothing was evaluated."""
    evaluated = {name for arm in record.arms for entry in arm.rounds for name in entry.test_metrics}
    shown = (metric for name, metric in judge.metrics_by_name.items() if name in evaluated and metric.shown)
    return [_utility_of(record, metric) for metric in sorted(shown, key=lambda metric: metric.title)]


def _utility_of(record: RunRecord, metric: Metric) -> Picture:
    figure, axes = canvas()
    rows: list[tuple[Any, ...]] = []
    last: list[str] = []
    for index, arm in enumerate(record.arms):
        line = [
            (entry.round, entry.test_metrics[metric.name]) for entry in arm.rounds if metric.name in entry.test_metrics
        ]
        if not line:
            continue
        colour, dash = PALETTE[index % len(PALETTE)], DASHES[index % len(DASHES)]
        numbers, heights = [number for number, _ in line], [metric.scale * value for _, value in line]
        axes.plot(numbers, heights, dash, color=colour, marker="o", ms=4, label=arm.name)
        rows += [(arm.name, number, value) for number, value in line]
        last.append(f"{arm.name}: {metric.format(line[-1][1])} after round {line[-1][0]}.")
    lowest, highest = min(0.0, *(metric.scale * value for _, _, value in rows)), metric.limits[1]
    axes.set(xlabel="round", ylabel=utility_axis(metric))
    axes.set(ylim=(lowest, None if highest is None else 1.02 * highest * metric.scale))
    axes.locator_params(axis="x", integer=True)
    axes.legend()
    alt = f"Test {metric.title} over rounds. {' '.join(last)}"
    columns = ("arm", "round", f"test_{slug(metric.title).replace('-', '_')}")
    return picture(slug(metric.title), figure, arm="", alt=alt, columns=columns, rows=rows)


@apply_style()
def epsilons(marks: Sequence[BoundComparison]) -> list[Picture]:
    """Return a picture per kind of attack: measured success over epsilon, with the ceiling of each guarantee."""
    kinds = dict.fromkeys(mark.quantity for mark in marks)
    return [
        _epsilons_of([mark for mark in marks if mark.quantity == kind], number) for number, kind in enumerate(kinds, 1)
    ]


@apply_style()
def ownership(ownerships: Sequence[Ownership]) -> list[Picture]:
    """Return a picture per partition: examples of each class per client, a bar for each of the first clients."""
    return [_ownership_of(owned, number) for number, owned in enumerate(ownerships, 1)]


@apply_style()
def participation(attendances: Sequence[ArmParticipation]) -> list[Picture]:
    """Return a picture per arm: counted and lost updates by cause, a bar per round."""
    return [_participation_of(attended, number) for number, attended in enumerate(attendances, 1)]


@apply_style()
def rocs(record: RunRecord) -> list[Picture]:
    """Return a picture per arm: log-log ROC curves of every attack that recorded a curve, with the diagonal."""
    curves = {number: list(roc_curves(arm)) for number, arm in enumerate(record.arms, 1)}
    return [_roc_of(record.arms[number - 1].name, number, of_arm) for number, of_arm in curves.items() if of_arm]


def roc_curves(arm: ArmRecord) -> Iterator[tuple[Finding, list[tuple[float, float]]]]:
    """Yield each finding with a ROC curve, and the curve's points (FPR, TPR)."""
    for finding in arm.findings:
        table = arm.items.get(finding.items, {})
        if "fpr" in table and "tpr" in table:
            yield finding, list(zip(table["fpr"], table["tpr"], strict=True))


@apply_style()
def wall_sheet(wall: ImageGrid, number: int) -> Picture:
    """Return an image grid as a single sheet for slides; the page shows its pictures individually."""
    figure = blank(1.15 * len(wall.columns) + 1.2, 1.35 * len(wall.rows) + 0.3, dpi=_SHEET_DPI)
    axes = figure.subplots()  # a single axes object: hundreds of axes take a minute to lay out
    axes.axis("off")
    sheet = np.full((_TILE * 6 * len(wall.rows) // 5, _TILE * len(wall.columns), 3), 255, np.uint8)  # faster
    rows: list[tuple[Any, ...]] = []
    names = list(dict.fromkeys(name for row in wall.rows for cell in row.cells for name in cell.data))
    for top, row in enumerate(wall.rows):
        axes.text(-0.08, 1.2 * top + 0.5, fill(row.label, 16), ha="right", va="center", fontsize=8)
        for left, cell in enumerate(row.cells):
            if cell.pixels is not None:
                _paste(sheet, cell.pixels, 6 * _TILE * top // 5, _TILE * left)
            if cell.scores:
                axes.text(
                    left + 0.5,
                    1.2 * top + 1.0,
                    "  ".join((*[cell.level][: bool(cell.level)], *cell.scores)),
                    ha="center",
                    va="top",
                    fontsize=7,
                )
            rows.append((wall.title, row.label, *map(cell.data.get, names), cell.level))
    axes.imshow(sheet, interpolation="none", extent=(0, len(wall.columns), 1.2 * len(wall.rows), 0), aspect="auto")
    axes.set(xlim=(-1.0, len(wall.columns)), ylim=(1.2 * len(wall.rows), -0.1))
    figure.suptitle(wall.title, fontsize=10)
    alt = f"Originals and guesses of {len(wall.columns)} examples in arm {wall.title}."
    columns = ("arm", "row", *names, "success")
    return picture(sheet_name(number, wall.title), figure, arm=wall.title, alt=alt, columns=columns, rows=rows)


def _paste(sheet: np.ndarray, pixels: np.ndarray, top: int, left: int) -> None:
    """Draw a picture into its tile, with nearest-neighbour scaling and a margin."""
    size = _TILE - 2 * _MARGIN
    row_index, column_index = (np.arange(size) * length // size for length in pixels.shape[:2])
    sheet[top + _MARGIN : top + _MARGIN + size, left + _MARGIN : left + _MARGIN + size] = (255 * pixels).round()[
        row_index
    ][:, column_index]


def _curves_of(arm: str, number: int, points: Rows, styles: _Styles, limits: _Limits) -> Picture:
    figure, axes = canvas()
    ends: list[str] = []
    for label, lines in _group_by_attack(points).items():
        colour, dash = styles[label]
        for index, line in enumerate(lines):
            name = label if index == 0 else f"_{label}"
            axes.plot(*zip(*line, strict=True), dash, color=colour, lw=1.3, alpha=0.8, marker=_marker(line), label=name)
        last = [line[-1][1] for line in lines]
        ends.append(f"{label} ends between {min(last):.1e} and {max(last):.1e}.")
    axes.set_yscale("log")
    axes.set(xlabel="iteration", ylabel="objective", title=arm)
    axes.set(xlim=(0, limits.iterations * 1.02), ylim=(limits.lowest / 2, limits.highest * 2))
    axes.legend()
    return picture(
        f"curves-{number}-{slug(arm)}",
        figure,
        arm=arm,
        alt=f"Objective over iterations in arm {arm}, a line per victim. {' '.join(ends)}",
        columns=("arm", "attack", "round", "client", "iteration", "objective"),
        rows=points,
    )


def _exceedance_of(
    arm: ArmRecord, number: int, styles: _Styles, highest: float, judge: RunJudge, metric: Metric
) -> Picture:
    figure, axes = canvas()
    rows: list[tuple[Any, ...]] = []
    best: list[str] = []
    for attack in arm.attacks:
        values = _scores(attack, metric)
        if not values:
            continue
        steps = _shares_above(values, judge.count(attack).examples)
        colour, dash = styles[attack.label]
        axes.step(*zip(*steps, strict=True), dash, where="post", color=colour, lw=1.8, label=attack.label)
        rows += [(arm.name, attack.label, threshold, share) for threshold, share in steps]
        best.append(f"The best {metric.noun} of {attack.label} has {metric.tell(max(values))}.")
    if judge.scoring.metric == metric.name:
        axes.axvline(judge.scoring.threshold, color="#555555", lw=1, ls=(0, (1, 2)))
    unit = f" ({metric.unit})" if metric.unit else ""
    axes.set(xlabel=f"t{unit}", ylabel=f"share of {metric.noun}s with {metric.title} > t", title=arm.name)
    axes.set(xlim=(0, highest * 1.05 or 1.0), ylim=(-0.02, 1.04))
    axes.legend()
    return picture(
        f"exceedance-{number}-{slug(arm.name)}",
        figure,
        arm=arm.name,
        alt=f"Share of {metric.noun}s with {metric.title} above t in arm {arm.name}. {' '.join(best)}",
        columns=("arm", "attack", f"t_{metric.unit.lower()}" if metric.unit else "t", "share_above"),
        rows=rows,
    )


def _epsilons_of(marks: list[BoundComparison], number: int) -> Picture:
    figure, axes = canvas()
    subject = marks[0].quantity
    for index, attack in enumerate(dict.fromkeys(mark.attack for mark in marks)):
        alike = [mark for mark in marks if mark.attack == attack]
        errors = [[m.measured_value - m.low for m in alike], [m.high - m.measured_value for m in alike]]
        places, heights = [m.epsilon for m in alike], [m.measured_value for m in alike]
        axes.errorbar(places, heights, errors, fmt="o", ms=4, color=PALETTE[index % len(PALETTE)], label=attack)
    ceilings = sorted({(m.epsilon, m.ceiling, m.prior) for m in marks})
    axes.plot([c[0] for c in ceilings], [c[1] for c in ceilings], "_", ms=14, mew=2, color="black", label="ceiling")
    axes.plot([c[0] for c in ceilings], [c[2] for c in ceilings], "x", ms=5, color="#555555", label="seeing nothing")
    floors = [(m.floor, m.epsilon, m.measured_value) for m in marks if m.floor]
    for index, (floor, epsilon, height) in enumerate(floors):
        label = "" if index else "audit: epsilon is at least"
        axes.plot([floor, epsilon], [height, height], ":|", ms=9, lw=1, color="#555555", label=label)
    axes.set_xscale("log")
    axes.set(xlabel="epsilon of the whole run", ylabel="share", ylim=(-0.03, 1.03), title=subject)
    axes.legend()
    lines = [f"{m.attack} in {m.arm} reached {m.measured_value:.0%} of {m.ceiling:.0%}." for m in marks]
    lines += dict.fromkeys(f"An audit of {m.arm} proved epsilon at least {m.floor:.3g}." for m in marks if m.floor)
    alt = f"{subject}, with the upper bound set by epsilon. {' '.join(lines)}"
    rows = tuple(tuple(mark) for mark in marks)
    return picture(f"epsilon-{number}", figure, arm="", alt=alt, columns=COLUMNS, rows=rows)


def _ownership_of(owned: Ownership, number: int) -> Picture:
    partition = owned.partition
    clients = [client for client, _ in partition.class_counts]
    segments = _segments(partition)
    figure = blank(SIZE[0], max(0.9 + 0.12 * len(clients), 0.5 + 0.18 * len(segments)))
    axes = figure.subplots()
    starts = [0] * len(clients)
    for index, (name, counts) in enumerate(segments):
        colour, hatch = PALETTE[index % len(PALETTE)], HATCHES[index // len(PALETTE) % len(HATCHES)]
        if name == _OTHERS[0]:
            colour, hatch = _OTHERS[1], ""
        axes.barh(
            clients, counts, left=starts, height=0.84, color=colour, hatch=hatch, edgecolor="white", lw=0.2, label=name
        )
        starts = [start + count for start, count in zip(starts, counts, strict=True)]
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.set(xlabel="examples", ylabel="client", ylim=(clients[-1] + 0.6, clients[0] - 0.6))
    axes.locator_params(axis="y", integer=True)
    figure.legend(loc="outside right upper", title="class", fontsize=8, title_fontsize=8)
    return picture(
        f"partition-{number}-{slug(owned.arm)}",
        figure,
        arm=owned.arm,
        alt=f"Examples of each class that the first {len(clients)} clients own. {owned.sentence}",
        columns=("client", "class", "examples"),
        rows=[
            (client, name, count)
            for client, counts in partition.class_counts
            for name, count in zip(partition.class_names, counts, strict=True)
        ],
    )


def _participation_of(attended: ArmParticipation, number: int) -> Picture:
    figure = blank(*SIZE)
    axes = figure.subplots()
    rounds = [turnout.round for turnout in attended.rounds]
    heights = [turnout.counted_updates for turnout in attended.rounds]
    axes.bar(rounds, heights, width=0.84, color=PALETTE[0], label="counted")
    for index, cause in enumerate(CAUSES):
        lost = [turnout.lost_updates[index] for turnout in attended.rounds]
        if not any(lost):
            continue
        colour, hatch = PALETTE[1 + index % (len(PALETTE) - 1)], HATCHES[1 + index % (len(HATCHES) - 1)]
        axes.bar(
            rounds, lost, bottom=heights, width=0.84, color=colour, hatch=hatch, edgecolor="white", lw=0.2, label=cause
        )
        heights = [height + count for height, count in zip(heights, lost, strict=True)]
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)
    axes.set(xlabel="round", ylabel="clients asked", title=attended.arm)
    axes.locator_params(integer=True)
    figure.legend(loc="outside right upper", fontsize=8)
    return picture(
        f"participation-{number}-{slug(attended.arm)}",
        figure,
        arm=attended.arm,
        alt=f"Updates that counted and that were lost, by cause, in every round of arm {attended.arm}. "
        f"{attended.sentence}",
        columns=("arm", "round", "asked", "counted", *(cause.replace(" ", "_") for cause in CAUSES)),
        rows=[(attended.arm, t.round, t.cohort, t.counted_updates, *t.lost_updates) for t in attended.rounds],
    )


def _roc_of(arm: str, number: int, curves: Sequence[tuple[Finding, list[tuple[float, float]]]]) -> Picture:
    figure, axes = canvas()
    rows: list[tuple[Any, ...]] = []
    least = min((fpr for _, points in curves for fpr, _ in points if fpr > 0), default=1.0)
    axes.plot([least / 2, 1], [least / 2, 1], color="#999999", lw=1, label="guessing")
    axes.axvline(least, color="#555555", lw=1, ls=(0, (1, 2)))
    for index, (finding, points) in enumerate(curves):
        colour, dash = PALETTE[index % len(PALETTE)], DASHES[index % len(DASHES)]
        seen = [(max(fpr, least / 2), tpr) for fpr, tpr in points if tpr > 0]
        axes.step(*zip(*seen, strict=True), dash, where="post", color=colour, lw=1.6, label=finding.label)
        rows += [(arm, finding.label, fpr, tpr) for fpr, tpr in points]
    axes.set(xscale="log", yscale="log", xlim=(least / 2, 1), ylim=(least / 2, 1.1), title=arm)
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate")
    figure.legend(loc="outside right upper", fontsize=8)
    ends = " ".join(
        f"{finding.label} at FPR {fpr:.1%}: {tpr:.1%}." for finding, points in curves for fpr, tpr in points[1:2]
    )
    return picture(
        f"roc-{number}-{slug(arm)}",
        figure,
        arm=arm,
        alt=f"True-positive over false-positive rate in arm {arm}. {ends}",
        columns=("arm", "attack", "fpr", "tpr"),
        rows=rows,
    )


def _segments(partition: PartitionRecord) -> list[tuple[str, list[int]]]:
    """Return (class, examples per client) of as many classes as have distinct colours, the rarest classes summed up."""
    by_class = list(zip(*(counts for _, counts in partition.class_counts), strict=True))
    ranked = sorted(range(len(by_class)), key=lambda label: -sum(by_class[label]))
    shown, smaller = sorted(ranked[:_MOST_CLASSES]), ranked[_MOST_CLASSES:]
    segments = [(partition.class_names[label], list(by_class[label])) for label in shown]
    if not smaller:
        return segments
    return [*segments, (_OTHERS[0], [sum(column) for column in zip(*(by_class[r] for r in smaller), strict=True)])]


def _styles(record: RunRecord) -> _Styles:
    labels = dict.fromkeys(attack.label for arm in record.arms for attack in arm.attacks)
    return {label: (PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]) for i, label in enumerate(labels)}


def _curve_points(arm: ArmRecord) -> Rows:
    """Return (arm, attack, round, client, iteration, objective) of the positive finite objectives, for a log axis."""
    return [
        (arm.name, attack.label, victim.round, victim.client, iteration, objective)
        for attack in arm.attacks
        for victim in attack.victims
        for iteration, objective in victim.history
        if math.isfinite(objective) and objective > 0
    ]


def _group_by_attack(points: Rows) -> dict[str, list[list[tuple[float, float]]]]:
    """Return the lines of each attack, a line per victim."""
    lines: dict[str, dict[tuple[int, int], list[tuple[float, float]]]] = {}
    for _, label, number, client, iteration, objective in points:
        lines.setdefault(label, {}).setdefault((number, client), []).append((iteration, objective))
    return {label: list(of_attack.values()) for label, of_attack in lines.items()}


def _scores(attack: AttackFinding, metric: Metric) -> list[float]:
    items = (item for victim in attack.victims if victim.failure is None for item in victim.scores)
    return [item.values[metric.name] for item in items if metric.name in item.values]


def _shares_above(values: Sequence[float], images: int) -> list[tuple[float, float]]:
    """Return (t, share above t) at 0 and at every value, relative to the number of images."""
    if not values:
        return []
    return [(t, sum(value > t for value in values) / images) for t in sorted({0.0, *values})]


def _marker(line: Sequence[Any]) -> str:
    return "o" if len(line) < 3 else ""  # noqa: PLR2004 - a line of a single point would be invisible
