"""Python interface: `fedsim.run`, `fedsim.sweep` and `fedsim.load`, and the runs that they return."""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.hosting import host_run
from fedsim.core.result_files import SWEEP
from fedsim.core.source import find_source
from fedsim.experiment.isolating import describe_open
from fedsim.experiment.run_into import run_into
from fedsim.experiment.sweep import columns, plan_runs
from fedsim.experiment.sweep import sweep as make_runs
from fedsim.experiment.sweep.executors.processes import ProcessExecutor
from fedsim.experiment.sweep.folder import SweepFolder, plan_of
from fedsim.experiment.sweep.results import (
    BEFORE_FINDINGS,
    RecordedRuns,
    finding_rows_of,
    iterate_records,
    problems,
    read,
    rows_of,
)
from fedsim.experiment.sweep.results import load as rows_in
from fedsim.record import RunRecord
from fedsim.record.finding_rows import FINDING_COLUMNS
from fedsim.record.store import read_record
from fedsim.report import sweep as sweep_reports
from fedsim.report import writing as reports
from fedsim.scenario import Scenario, parse
from fedsim.scenario import Sweep as SweepSettings
from fedsim.scenario import load as read_scenario
from fedsim.scenario.user_code import forbid_exit

if TYPE_CHECKING:
    from pandas import DataFrame

Source = str | Path | Mapping[str, Any] | Scenario


@dataclass(frozen=True)
class Run:
    """A run of a scenario, in its folder."""

    path: Path

    @cached_property
    def record(self) -> RunRecord:
        """The record of the run: arms, rounds, attacks and their scores."""
        return read_record(self.path)

    @property
    def report(self) -> Path:
        """Path of the run's page, which is written if it is missing."""
        page = self.path / "report.html"
        return page if page.exists() else reports.build(self.path)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every attacked example; `fedsim.experiment.sweep.columns` describes the columns."""
        return rows_in(self.path)

    def table(self) -> Any:
        """Return `rows` as a pandas DataFrame, or as they are where pandas is not installed."""
        return _frame(self.rows())

    def to_frame(self) -> DataFrame:
        """Return a pandas DataFrame with a row for every metric value of every finding, attacks on updates included.

        The columns are those of ``findings.csv``. A failed attack has the state ``failed`` and no value.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return _findings_frame(read(self.path))


@dataclass(frozen=True)
class Runs:
    """The runs of a sweep, in its folder. Iteration yields the finished runs."""

    path: Path

    def __iter__(self) -> Iterator[Run]:
        folder = SweepFolder(self.path)
        for run_folder, record in iterate_records(self.path):
            if not isinstance(record, str):
                yield Run(folder.run_path(run_folder.digest))

    @property
    def problems(self) -> dict[str, str]:
        """Why a run has no record, by the values that the sweep set in it."""
        return {folder.name: why for folder, why in problems(self.path)}

    @property
    def report(self) -> Path:
        """Path of the sweep's page, rewritten since runs may have been added."""
        return sweep_reports.build(self.path)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every attacked example of every finished run, with the values that the sweep set."""
        return rows_of(list(iterate_records(self.path)))

    def table(self) -> Any:
        """Return `rows` as a pandas DataFrame, or as they are where pandas is not installed."""
        return _frame(self.rows())

    def to_frame(self) -> DataFrame:
        """Return `Run.to_frame` of every finished run, with a column for each value that the sweep set.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return _findings_frame(read(self.path))


@host_run()
def run(
    scenario: Source,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    isolate: bool = False,
    salt: str | Path | None = None,
    trust: bool = False,
) -> Run:
    """Run a scenario: train, observe, attack, score, and write record, arrays and report into a folder.

    Args:
        scenario: a scenario file or the name of a shipped scenario, its tables as nested dictionaries, or a loaded
            scenario.
        overrides: of a file, ``key.path=value`` as after ``fedsim run --set``, for example ``seed=5``.
        out: folder of the run; default ``results/NAME``, with the file's name or a name from the title.
        overwrite: replace the run that the folder holds.
        resume: keep the complete arms of an interrupted run in that folder, and repeat the others.
        isolate: run each attack in a subprocess that holds only its observation. Its random draws then depend on a
            secret salt, which is stored in the folder as ``salt``.
        salt: a file with such a salt, to repeat a run; with or without `isolate`.
        trust: let a scenario file name any function and read files outside of its folder.

    Raises:
        FedsimError: the scenario cannot be run as written, the folder holds something else, or both `resume` and
            `overwrite` are set.
    """
    scenario = find_source(Path(scenario)) if isinstance(scenario, str | Path) else scenario
    if resume and overwrite:
        raise FedsimError(
            "resume and overwrite exclude each other: a run is continued, or replaced. Pass either of the two."
        )
    loaded = _load(scenario, overrides, trust=trust)
    if loaded.sweep is not None:
        raise FedsimError("the scenario is a sweep of many runs. Use: fedsim.sweep")
    if isolate and (gaps := describe_open()):
        warnings.warn(gaps, stacklevel=2)
    path = Path(out) if out is not None else _place(scenario, loaded)
    run_into(
        loaded,
        path,
        command=_command("run", scenario, overrides),
        existing="resume" if resume else "replace" if overwrite else "refuse",
        isolate=isolate,
        salt=Path(salt) if salt is not None else None,
        write_page=reports.build,
    )
    return Run(path)


@host_run()
def sweep(
    scenario: Source,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    budget: float | None = None,
    trust: bool = False,
) -> Runs:
    """Make every unfinished run of a sweep; the same call continues after any interruption.

    Args:
        scenario: as in `run`, with a table ``sweep``.
        overrides: as in `run`.
        out: folder of the sweep; default ``results/NAME``, with the file's name or a name from the title.
        jobs: worker processes; by default the number of cores.
        budget: seconds after which no further run begins.
        trust: as in `run`.

    Returns:
        The runs. A failed run raises no error: `Runs.problems` gives the reason.

    Raises:
        FedsimError: the scenario cannot be run as written, or the folder holds something else.
    """
    scenario = find_source(Path(scenario)) if isinstance(scenario, str | Path) else scenario
    loaded = _load(scenario, overrides, trust=trust)
    runs = plan_runs(loaded, _source(scenario))
    folder = SweepFolder(Path(out) if out is not None else _place(scenario, loaded))
    with folder.lock_for_sweep(plan_of(loaded, runs)):
        make_runs(
            folder,
            runs,
            loaded.sweep or SweepSettings(),
            executor=ProcessExecutor(),
            jobs=jobs or os.cpu_count() or 1,
            command=_command("sweep", scenario, overrides),
            budget=budget,
        )
    return Runs(folder.path)


def load(folder: str | Path) -> Run | Runs:
    """Return the run in a folder, or the runs of a sweep.

    Raises:
        FedsimError: it holds neither.
    """
    path = Path(folder)
    if (path / SWEEP).exists():
        SweepFolder(path).plan()
        return Runs(path)
    read_record(path)
    return Run(path)


def _load(scenario: Source, overrides: Sequence[str], *, trust: bool) -> Scenario:
    if isinstance(scenario, str | Path):
        with forbid_exit(f"code that {scenario} names"):
            return read_scenario(Path(scenario), overrides, trust=trust)
    if overrides:
        raise FedsimError("overrides change the scenario of a file. Change the tables that you pass instead.")
    return scenario if isinstance(scenario, Scenario) else parse(scenario, _source(scenario))


def _source(scenario: Source) -> str:
    return str(scenario) if isinstance(scenario, str | Path) else "scenario"


def _place(scenario: Source, loaded: Scenario) -> Path:
    if isinstance(scenario, str | Path):
        return Path("results") / Path(scenario).stem
    return Path("results") / ("-".join(re.findall(r"[a-z0-9]+", loaded.title.lower())) or "run")


def _command(function: str, scenario: Source, overrides: Sequence[str]) -> str:
    arguments = [repr(str(scenario)) if isinstance(scenario, str | Path) else "scenario"]
    return f"fedsim.{function}({', '.join([*arguments, *([repr(list(overrides))] if overrides else [])])})"


def _findings_frame(recorded: RecordedRuns) -> DataFrame:
    try:
        import pandas as pd  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtra("pandas", "pip install 'fedsim-privacy[pandas]'") from error
    rows = finding_rows_of(recorded)
    names = dict.fromkeys([*BEFORE_FINDINGS, *FINDING_COLUMNS, *(name for row in rows for name in row)])
    return pd.DataFrame(rows, columns=list(names))


def _frame(rows: list[dict[str, Any]]) -> Any:
    if importlib.util.find_spec("pandas") is None:
        return rows
    return importlib.import_module("pandas").DataFrame(rows, columns=None if rows else list(columns()))
