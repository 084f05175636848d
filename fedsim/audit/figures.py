"""Figure of the cost of defenses: test accuracy lost against the share of recovered examples."""

from __future__ import annotations

from fedsim.audit import tables
from fedsim.audit.record import AuditArm, AuditRecord
from fedsim.record import Interval
from fedsim.report.document import Picture
from fedsim.report.drawing import PALETTE, apply_style, canvas, picture
from fedsim.report.sweep.labels import NamedPoint, annotate

DEFENSES = "defenses"
_NOTHING = Interval(value=0.0, low=None, high=None, n=0)


def defenses(record: AuditRecord) -> Picture | None:
    """Return the figure, or None if no defense was both attacked and trained."""
    arms = [arm for arm in record.defense_arms if arm.cost and arm.recovered_share and not arm.is_unknown]
    return _picture_of(record, arms) if arms else None


@apply_style()
def _picture_of(record: AuditRecord, arms: list[AuditArm]) -> Picture:
    figure, axes = canvas()
    points = [
        (arm.name, arm.cost.accuracy_loss, arm.recovered_share) for arm in arms if arm.cost and arm.recovered_share
    ]
    if record.control and record.control.recovered_share:
        points.append(("none (control)", _NOTHING, record.control.recovered_share))
    for name, lost, recovered in points:
        is_control = lost is _NOTHING
        axes.errorbar(
            100 * lost.value,
            100 * recovered.value,
            xerr=_bars(lost),
            yerr=_bars(recovered),
            fmt="*" if is_control else "o",
            ms=10 if is_control else 6,
            color="#000000" if is_control else PALETTE[0],
            elinewidth=0.7,
            label=name,
        )
    axes.set(xlabel="test accuracy lost (points)", ylabel=f"{record.noun}s recovered (%)", ylim=(-3, 103))
    annotate(axes, [NamedPoint(name, 100 * lost.value, 100 * recovered.value) for name, lost, recovered in points])
    summary = "; ".join(
        f"{name}: {100 * recovered.value:.0f} % recovered, {100 * lost.value:.1f} points lost"
        for name, lost, recovered in points
    )
    rows = tuple(tables.defenses(record))
    return picture(DEFENSES, figure, arm="", alt=f"Defenses. {summary}.", columns=tables.DEFENSE_COLUMNS, rows=rows)


def _bars(interval: Interval) -> list[list[float]]:
    low, high = (interval.value if end is None else end for end in (interval.low, interval.high))
    return [[100 * (interval.value - low)], [100 * (high - interval.value)]]
