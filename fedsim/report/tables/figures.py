"""Numbers for people: a figure with its interval, a cost, a duration."""

from __future__ import annotations

from fedsim.core.metric import Metric
from fedsim.record import ClientCost, Interval
from fedsim.report.document import Heading, TableCell, number
from fedsim.report.verdict import Column, bounds

NOTHING = "\N{EN DASH}"


def estimate(interval: Interval | None, scale: float, digits: int, unit: str = "") -> TableCell:
    """Return a number with its unit and interval; a dash where there is no number."""
    if interval is None:
        return TableCell(NOTHING)
    return TableCell(f"{interval.value * scale:.{digits}f}{unit}", bounds(interval, scale, digits))


def figure(value: Interval | None, metric: Metric) -> TableCell:
    """Return a figure of a metric; its unit is for the heading, unless it is a share."""
    return estimate(value, metric.scale, metric.digits, metric.suffix if metric.form != "number" else "")


def heading_of(column: Column) -> Heading:
    """Return the head of a column of figures, with their unit."""
    return number(f"{column.heading} ({column.metric.unit})" if column.metric.unit else column.heading)


def cost(of: ClientCost | None) -> str:
    """Return what a client's round took, for people; nothing where it was not recorded."""
    if of is None:
        return ""
    memory = "" if of.peak_memory is None else f" and at most {of.peak_memory / 2**20:,.0f} MiB of memory"
    return f"a client's round took {of.processor_seconds:.2g} s of processor time{memory}"


def with_noun(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def scientific(value: float | None) -> str:
    """Return a number with its power of ten, or a dash."""
    return NOTHING if value is None else f"{value:.2e}"


def duration(seconds: float) -> str:
    """Return seconds for people, from 100 on as minutes."""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"  # noqa: PLR2004 - three digits at most
