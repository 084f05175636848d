"""Results of experiments: a small file each, which is committed, and cells that wait for the others of their run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from benchmarks._experiments import FOLDER, Budget
from benchmarks._rows import Row
from benchmarks._sources import ROOT, changed_files
from fedsim.core.errors import FedsimError, first_line
from fedsim.experiment.expectation import Measurement
from fedsim.record.atomic_files import write_atomic
from fedsim.record.environment import environment

RESULTS = FOLDER / "results"
WAITING = ROOT / "results" / "benchmarks"
_PACKAGES = ("torch", "numpy", "flwr")
_TIMES = ("s", "ms", "times", "tokens/s", "GFLOP/s", "GB/s")


class Result(BaseModel, extra="forbid"):
    """Result of an experiment.

    Attributes:
        experiment: name of the experiment.
        commit: commit of the measured code.
        sources: digests of the files that the measurement loaded, by path; a different digest now makes it stale.
        versions: versions of torch, numpy and flwr, by package.
        date: date of the last cell.
        processor: processor of the machine.
        full: whether it is the long version.
        seconds: processor seconds of each attack on an update; None without a limit.
        minutes: processor minutes of all cells.
        cells: rows by cell.
    """

    experiment: str
    commit: str
    sources: dict[str, str]
    versions: dict[str, str] = {}
    date: str
    processor: str
    full: bool
    seconds: float | None
    minutes: float
    cells: dict[str, list[Row]]

    @property
    def budget(self) -> Budget:
        """Budget of the run."""
        return Budget(self.full, self.seconds)

    @property
    def rows(self) -> list[Row]:
        """Rows of all cells."""
        return [row for rows in self.cells.values() for row in rows]


def describe_run(run: Result | Measurement) -> str:
    """Return date, commit and processor of a measurement."""
    return f"{run.date}, commit {run.commit}, {run.processor}"


class Done(BaseModel, extra="forbid"):
    """A measured cell, a line of the file of an unfinished run; `sources` are digests of the loaded files, by path."""

    sources: dict[str, str]
    full: bool
    seconds: float | None
    cell: str
    minutes: float
    rows: list[Row]


def done_cells(file: Path, budget: Budget) -> dict[str, Done]:
    """Return a file's cells of unchanged code and the same budget. A line that a kill cut short is skipped."""
    cells = map(_read_cell, file.read_text(encoding="utf-8").splitlines() if file.exists() else ())
    return {
        done.cell: done
        for done in cells
        if done is not None and (done.full, done.seconds) == budget and not changed_files(done.sources)
    }


def keep(done: Done, file: Path) -> None:
    """Add a cell to a file, on a line that begins even where a kill cut the last one short."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(f"\n{done.model_dump_json()}\n")


def result_of(name: str, cells: Sequence[Done]) -> Result:
    """Return the result of an experiment's cells."""
    first, here = cells[0], environment("")
    return Result(
        experiment=name,
        commit=here.short_commit,
        sources=dict(sorted(pair for done in cells for pair in done.sources.items())),
        versions={package: here.versions[package] for package in _PACKAGES},
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        processor=here.processor,
        full=first.full,
        seconds=first.seconds,
        minutes=round(sum(done.minutes for done in cells), 2),
        cells={done.cell: done.rows for done in cells},
    )


def as_json(result: Result) -> str:
    """Return a result as a file holds it: a line a row, so that a difference can be read."""
    head = result.model_dump(mode="json", exclude={"cells"})
    cells = ",\n".join(
        f"  {json.dumps(name)}: [\n" + ",\n".join(f"   {json.dumps(_short(row))}" for row in rows) + "\n  ]"
        for name, rows in result.cells.items()
    )
    return json.dumps(head, indent=1).removesuffix("\n}") + f',\n "cells": {{\n{cells}\n }}\n}}\n'


def write(result: Result, folder: Path) -> Path:
    """Write a result to its file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{result.experiment}.json"
    write_atomic(file, as_json(result).encode())
    return file


def read(name: str, folder: Path = RESULTS) -> Result:
    """Return the result of an experiment.

    Raises:
        FedsimError: there is none, or its file cannot be read.
    """
    file = folder / f"{name}.json"
    if not file.exists():
        raise FedsimError(f"there are no results of '{name}' yet; measure them: python -m benchmarks {name}")
    table = json.loads(file.read_text(encoding="utf-8"))
    try:
        cells = {cell: [Row(**row) for row in rows] for cell, rows in table.pop("cells").items()}
        return Result(**table, cells=cells)
    except (ValidationError, TypeError, KeyError) as error:
        raise FedsimError(f"{file} holds no results of an experiment: {first_line(error)}") from error


def results(folder: Path = RESULTS) -> dict[str, Result]:
    """Return all results by the names of their experiments."""
    return {file.stem: read(file.stem, folder) for file in sorted(folder.glob("*.json"))}


def changed_rows(before: Result, after: Result) -> Iterator[str]:
    """Yield a line for each row that appeared, went, or whose intervals do not meet.

    A figure without an interval must lie in the other's; two without one are not compared. Seconds and ratios of
    seconds are not compared, since processors differ.
    """
    old, new = _index_rows(before), _index_rows(after)
    for name in {**old, **new}:
        if name not in new or name not in old:
            yield f"{', '.join(name)}: {'is gone' if name in old else 'is new'}"
            continue
        first, second = old[name], new[name]
        if first.unit not in _TIMES and not _meet(first, second):
            yield f"{', '.join(name)}: {_spread(first)} before, {_spread(second)} now"


def _read_cell(line: str) -> Done | None:
    try:
        return Done.model_validate_json(line)
    except ValidationError:
        return None


def _short(row: Row) -> Mapping[str, Any]:
    """Return a row without what it leaves out, with four digits."""
    left_out = Row._field_defaults
    kept = {key: value for key, value in row._asdict().items() if key not in left_out or value != left_out[key]}
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in kept.items()}


def _index_rows(result: Result) -> dict[tuple[str, str, str], Row]:
    """Return rows as a file holds them."""
    return {(cell, row.setting, row.name): Row(**_short(row)) for cell, rows in result.cells.items() for row in rows}


def _meet(first: Row, second: Row) -> bool:
    if first.low is None and second.low is None:
        return True
    ends: Iterable[tuple[float, float]] = (
        (row.value if row.low is None else row.low, row.value if row.high is None else row.high)
        for row in (first, second)
    )
    (low, high), (least, most) = ends
    return low <= most and least <= high


def _spread(row: Row) -> str:
    ends = "" if row.low is None or row.high is None else f" [{row.low:.3g}, {row.high:.3g}]"
    return f"{row.value:.3g}{ends} {row.unit}"
