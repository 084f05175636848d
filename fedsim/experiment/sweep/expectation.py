"""Figures of a sweep, each of one setting over its seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fedsim.experiment.expectation import Figure
from fedsim.experiment.expectation import figures as figures_of
from fedsim.experiment.sweep.folder import PLAN
from fedsim.experiment.sweep.plan import in_words
from fedsim.experiment.sweep.results import each


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
    """Return the mean of one figure over seeds, which are drawn apart, and all of its units."""
    half = math.hypot(*(figure.half for figure in seeds)) / len(seeds)
    value, units = fmean(figure.value for figure in seeds), sum(figure.n for figure in seeds)
    return seeds[0]._replace(value=value, n=units, half=half)
