"""What updates told of attributes, setting by setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from fedsim.metrics.comparison import mean_over_seeds
from fedsim.record import AttributeRecord, Interval
from fedsim.report.sweep.gathered import Setting, Sweep
from fedsim.report.tables.attributes import Asked, asked


@dataclass(frozen=True)
class Row:
    """One attack on an attribute on one setting; its figures are means over seeds, and `seeds` says of how many."""

    setting: str
    asked: Asked
    seeds: int


def attributes(sweep: Sweep) -> list[Row]:
    """Return a row for every attack on an attribute on every setting.

    Of several seeds a figure is their mean, with Student's interval over seeds; of one seed, that of its record.
    """
    return [row for setting in sweep.settings for row in _rows(setting, sweep.judge.scoring.confidence)]


def _rows(setting: Setting, confidence: float) -> Iterator[Row]:
    by_label: dict[str, list[AttributeRecord]] = {}
    for cell in setting.cells:
        for own in cell.asked:
            by_label.setdefault(own.label, []).append(own)
    for own in by_label.values():
        yield Row(setting.name, asked(_mean(own, confidence)), len(own))


def _mean(found: list[AttributeRecord], confidence: float) -> AttributeRecord:
    """Return one record for several seeds; its updates are those of all that have a figure."""
    told = [own for own in found if own.accuracy is not None]
    if len(told) < 2:  # noqa: PLR2004 - of one seed there is no mean
        return (told or found)[0]
    return told[0].model_copy(
        update={
            "accuracy": _over_seeds([own.accuracy for own in told], confidence),
            "permuted": _over_seeds([own.permuted for own in told], confidence),
            "chance": fmean(own.chance for own in told),
            "updates": sum(own.updates for own in told),
            "left_out": sum(own.left_out for own in told),
        }
    )


def _over_seeds(figures: list[Interval | None], confidence: float) -> Interval | None:
    values = [own.value for own in figures if own is not None]
    return _within(mean_over_seeds(values, confidence)) if values else None


def _within(share: Interval) -> Interval:
    """Return a share with an interval that holds shares alone."""
    low, high = (None if bound is None else min(max(bound, 0.0), 1.0) for bound in (share.low, share.high))
    return share.model_copy(update={"low": low, "high": high})
