"""Metric values of a sweep: for each setting the mean over its seeds; and the run that gave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fedsim.core.errors import FedsimError
from fedsim.core.result_files import SWEEP
from fedsim.experiment.expectation import Figure, Measurement
from fedsim.experiment.expectation import figures as figures_of
from fedsim.experiment.expectation import measurement as measurement_of
from fedsim.experiment.sweep.plan import format_values
from fedsim.experiment.sweep.results import iterate_records
from fedsim.metrics.comparison import mean_over_seeds
from fedsim.metrics.statistics import wilson


def figures(folder: Path) -> list[Figure]:
    """Return the metric values of a run folder, or for a sweep folder the means of each setting over its seeds.

    Unfinished runs are ignored.

    Raises:
        FedsimError: the folder contains neither a sweep nor a run.
    """
    is_sweep = (folder / SWEEP).exists()
    by_setting: dict[tuple[str, str, str], list[Figure]] = {}
    for planned, record in iterate_records(folder):
        for figure in () if isinstance(record, str) else figures_of(record):
            swept = {key: value for key, value in planned.values.items() if key != "seed"}
            named = figure._replace(arm=format_values(swept) or figure.arm) if is_sweep else figure
            by_setting.setdefault((named.arm, named.attack, named.metric), []).append(named)
    return [_mean(setting) for setting in by_setting.values()]


def measurement(folder: Path) -> Measurement:
    """Return the date, commit and processor of a run folder, or of the last finished run of a sweep folder.

    Raises:
        FedsimError: the folder contains no finished run.
    """
    records = [record for _, record in iterate_records(folder) if not isinstance(record, str)]
    if not records:
        raise FedsimError(f"{folder}: expected a finished run, and there is none")
    return measurement_of(max(records, key=lambda record: record.started))


def _mean(seeds: Sequence[Figure]) -> Figure:
    """Return a value over seeds: for counts the share of all units, otherwise the mean of the seeds."""
    if len(seeds) == 1:
        return seeds[0]
    values, units = [figure.value.value for figure in seeds], sum(figure.value.n for figure in seeds)
    is_count = seeds[0].of is not None and seeds[0].of.is_success_count and units > 0
    whole = wilson(min(fmean(values), 1.0) * units, units) if is_count else mean_over_seeds(values)
    return seeds[0]._replace(value=whole)
