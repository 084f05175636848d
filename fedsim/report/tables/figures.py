"""Numbers for people: an estimate with its interval, a cost, a duration."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.record import ClientCost, Interval, Summary
from fedsim.report.verdict import Column, bounds

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Estimate:
    """A number and its interval, as text; a dash when there is no number."""

    value: str
    interval: str = ""


def estimate(interval: Interval | None, scale: float, digits: int, unit: str = "") -> Estimate:
    """Return a number with its unit and interval, as text."""
    if interval is None:
        return Estimate(NOTHING)
    return Estimate(f"{interval.value * scale:.{digits}f}{unit}", bounds(interval, scale, digits))


def figure_of(summary: Summary, column: Column) -> Estimate:
    """Return a figure of a summary as its metric is told."""
    own = column.metric
    return estimate(summary.metrics.get(column.name), own.scale, own.digits, own.suffix)


def cost(own: ClientCost | None) -> str:
    """Return what a client's round took, for people; nothing where it was not recorded."""
    if own is None:
        return ""
    memory = "" if own.peak_memory is None else f" and at most {own.peak_memory / 2**20:,.0f} MiB of memory"
    return f"a client's round took {own.processor_seconds:.2g} s of processor time{memory}"


def with_noun(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _scientific(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2e}"


def duration(seconds: float) -> str:
    """Return seconds for people, from 100 on as minutes."""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"  # noqa: PLR2004 - three digits at most
