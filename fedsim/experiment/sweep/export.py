"""Export of a sweep's table as CSV, Parquet or DuckDB, with explained columns."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from fedsim.core.errors import FedsimError, MissingExtra, first_line
from fedsim.core.sanitize import csv_table, drop_empty_columns
from fedsim.experiment.sweep.results import (
    BEFORE_FINDINGS,
    RecordedRuns,
    columns,
    finding_rows_of,
    problems_of,
    read,
    rows_of,
)
from fedsim.record.atomic_files import io_advice
from fedsim.record.finding_rows import FINDING_COLUMNS
from fedsim.record.store import RunFolder

_FINDINGS, _FINDINGS_COLUMNS = "findings.csv", "findings-columns.csv"
_SET = "the sweep's settings"
_EXAMPLE = ("arm", "attack", "round", "client", "image")  # columns that identify an attacked example


def write_csv(path: Path) -> Path:
    """Write ``table.csv`` and ``table-columns.csv`` into the folder of a sweep or run, and return the first path.

    Findings, if any, are written to ``findings.csv`` and ``findings-columns.csv``.

    Raises:
        FedsimError: the folder contains neither a sweep nor a run.
    """
    recorded = read(path)
    names, rows = _table(recorded)
    _explain(path, names, recorded)
    RunFolder(path).write("table.csv", csv_table(names, rows))
    _write_findings(path, recorded)
    return path / "table.csv"


def write_parquet(path: Path) -> Path:
    """Write ``table.parquet`` and ``table-columns.csv``, and return the first path.

    Raises:
        FedsimError: the folder contains neither a sweep nor a run.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra("pyarrow", "pip install 'fedsim-privacy[parquet]'") from error
    recorded = read(path)
    names, rows = _table(recorded)
    _explain(path, names, recorded)
    values = zip(*rows, strict=True) if rows else ([] for _ in names)
    table = pyarrow.table({name: list(column) for name, column in zip(names, values, strict=True)})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    RunFolder(path).write("table.parquet", buffer.getvalue())
    return path / "table.parquet"


def write_duckdb(path: Path) -> Path:
    """Write ``results.duckdb``, and return its path.

    Its table `results` holds the rows, its view `best` the row of the strongest attack on each example, by the scoring
    metric or the leading metric of such examples. Findings, if any, are its table `findings`.

    Raises:
        FedsimError: the folder contains neither a sweep nor a run.
        MissingExtra: duckdb is not installed.
    """
    try:
        import duckdb  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtra("duckdb", "pip install 'fedsim-privacy[duckdb]'") from error
    source, target = write_csv(path), path / "results.duckdb"
    fresh = path / ".fedsim-results.duckdb"
    log = path / ".fedsim-results.duckdb.wal"
    RunFolder(path).reserve(target.name)
    try:
        fresh.unlink(missing_ok=True)
        with duckdb.connect(str(fresh)) as database:
            database.read_csv(str(source), sample_size=-1).create("results")
            if (findings := path / _FINDINGS).exists():
                database.read_csv(str(findings), sample_size=-1).create("findings")
            database.execute(
                "create view best as select * from results qualify "
                "row_number() over (partition by run, arm, round, client, image "
                f"order by {_order(path, source)}) = 1"
            )
        with io_advice(target):
            fresh.replace(target)
    except duckdb.Error as error:
        raise FedsimError(f"cannot write to {target}: {first_line(error)}") from error
    finally:
        fresh.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
    return target


def _order(path: Path, table: Path) -> str:
    """Return the SQL order of attacks by strength, in columns of a CSV table."""
    with table.open(newline="") as file:
        columns = next(csv.reader(file))
    records = [record for _, record in read(path) if not isinstance(record, str)]
    deciding = {record.plan.get("scoring", {}).get("metric", "") for record in records}
    known = [metric for record in records for metric in record.metrics_by_name.values()]
    wanted = {metric.column_name: metric for metric in known if metric.name in deciding or metric.leads}
    orders = {name: "desc" if metric.better == "higher" else "asc" for name, metric in wanted.items()}
    terms = [f'"{name}" {order} nulls last' for name, order in orders.items() if name in columns]
    return ", ".join(terms) or "image"


def _table(recorded: RecordedRuns) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows; settings that are tables are written as text."""
    rows = rows_of(recorded)
    names = list(dict.fromkeys([*columns(recorded), *(name for row in rows for name in row)]))
    values = [[_plain(row.get(name)) for name in names] for row in rows]
    return drop_empty_columns(names, values, kept=(*BEFORE_FINDINGS, *_EXAMPLE))


def _write_findings(path: Path, recorded: RecordedRuns) -> None:
    """Write the findings; without findings, remove the files of an earlier export."""
    rows = finding_rows_of(recorded)
    if not rows:
        for name in (_FINDINGS, _FINDINGS_COLUMNS):
            (path / name).unlink(missing_ok=True)
        return
    known = {**BEFORE_FINDINGS, **FINDING_COLUMNS}
    names = list(dict.fromkeys([*known, *(name for row in rows for name in row)]))
    meanings = [(name, known.get(name, _SET)) for name in names]
    RunFolder(path).write(_FINDINGS_COLUMNS, csv_table(("column", "meaning"), meanings))
    RunFolder(path).write(_FINDINGS, csv_table(names, [[_plain(row.get(name)) for name in names] for row in rows]))


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _explain(path: Path, names: list[str], recorded: RecordedRuns) -> None:
    known = columns(recorded)
    meanings = [(name, known.get(name, _SET)) for name in names]
    absent = [(f"left out: {run.name}", why) for run, why in problems_of(recorded)]
    RunFolder(path).write("table-columns.csv", csv_table(("column", "meaning"), [*meanings, *absent]))
