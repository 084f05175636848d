"""What a noised metric of a site costs: epsilon of a figure, and of one figure a round.

Computed, not measured: the exact accountant of Gaussian noise, whose sensitivity is the range of the metric.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row
from fedsim.privacy.accounting import Spent, epsilon

_DELTA = 1e-5
_MULTIPLIERS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_FIGURES = {"one figure": 1, "10 figures": 10, "100 figures": 100}


@experiment("guard-metrics", minutes=0.1, page="guard")
def guard_metrics(budget: Budget) -> Cells:
    """Return a single cell; the long version is the same."""
    del budget
    return {"epsilon": _rows}


def _rows() -> Iterator[Row]:
    for multiplier in _MULTIPLIERS:
        for name, figures in _FIGURES.items():
            spent = epsilon([Spent(multiplier, 1.0, figures)], _DELTA).value
            yield Row(name, f"noise_multiplier = {multiplier:g}", spent, "epsilon")
