"""Formatting of numbers: values with intervals, costs, durations."""

from __future__ import annotations

from dataclasses import replace

from fedsim.core.metric import Metric
from fedsim.record import ClientCost, Interval
from fedsim.report.document import Heading, Measurement, TableCell, number
from fedsim.report.verdict import Column, bounds

NOTHING = "\N{EN DASH}"


def estimate(interval: Interval | None, scale: float, digits: int, unit: str = "") -> TableCell:
    """Return a number with its unit and interval; a dash if it is None."""
    if interval is None:
        return TableCell(NOTHING)
    return TableCell(f"{interval.value * scale:.{digits}f}{unit}", bounds(interval, scale, digits))


def figure(value: Interval | None, metric: Metric) -> TableCell:
    """Return the cell of a metric value; the unit is omitted, because the heading has it, unless it is a share."""
    cell = estimate(value, metric.scale, metric.digits, metric.suffix if metric.form != "number" else "")
    return cell if value is None else replace(cell, measurement=measurement_of(value, metric))


def measurement_of(value: Interval, metric: Metric) -> Measurement:
    """Return the number behind a cell of a metric value."""
    return Measurement(metric.name, value.value, value.low, value.high, value.n, metric.unit, metric.better)


def success_cell(rate: Interval, digits: int = 0) -> TableCell:
    """Return the cell of a success rate of an attack, in per cent; a higher rate is a stronger attack."""
    measurement = Measurement("success", rate.value, rate.low, rate.high, rate.n, better="higher")
    return replace(estimate(rate, 100, digits, "%"), measurement=measurement)


def heading_of(column: Column) -> Heading:
    """Return the heading of a metric column, with its unit."""
    return number(f"{column.heading} ({column.metric.unit})" if column.metric.unit else column.heading)


def cost(client_cost: ClientCost | None) -> str:
    """Return the cost of a client's round as text; empty if it was not recorded."""
    if client_cost is None:
        return ""
    memory = (
        "" if client_cost.peak_memory is None else f" and at most {client_cost.peak_memory / 2**20:,.0f} MiB of memory"
    )
    return f"a client's round took {client_cost.processor_seconds:.2g} s of processor time{memory}"


def with_noun(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def scientific(value: float | None) -> str:
    """Return a number with its power of ten, or a dash."""
    return NOTHING if value is None else f"{value:.2e}"


def duration(seconds: float) -> str:
    """Return seconds as text, in minutes from 100 s."""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"  # noqa: PLR2004 - three digits at most
