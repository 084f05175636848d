"""Figures of a sweep, each of one setting over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fedsim.experiment.expectation import Figure
from fedsim.experiment.expectation import figures as figures_of
from fedsim.experiment.sweep.folder import PLAN
from fedsim.experiment.sweep.plan import in_words
from fedsim.experiment.sweep.results import each
from fedsim.metrics.comparison import mean_over_seeds
from fedsim.metrics.statistics import wilson


def figures(folder: Path) -> list[Figure]:
    """Return the figures of a run folder, or of a sweep's: of each setting the means over its seeds, in order.

    Runs of a sweep that are not finished count nothing.

    Raises:
        FedsimError: the folder holds neither a sweep nor a run.
    """
    is_sweep = (folder / PLAN).exists()
    by_setting: dict[tuple[str, str, str], list[Figure]] = {}
    for planned, record in each(folder):
        for figure in () if isinstance(record, str) else figures_of(record):
            swept = {key: value for key, value in planned.values.items() if key != "seed"}
            named = figure._replace(arm=in_words(swept) or figure.arm) if is_sweep else figure
            by_setting.setdefault((named.arm, named.attack, named.metric), []).append(named)
    return [_mean(one) for one in by_setting.values()]


def _mean(seeds: Sequence[Figure]) -> Figure:
    """Return one figure over seeds: the share of all units that it counts, or else the mean of the seeds."""
    if len(seeds) == 1:
        return seeds[0]
    values, units = [figure.value.value for figure in seeds], sum(figure.value.n for figure in seeds)
    is_count = seeds[0].of is not None and seeds[0].of.counted and units > 0
    whole = wilson(min(fmean(values), 1.0) * units, units) if is_count else mean_over_seeds(values)
    return seeds[0]._replace(value=whole)
