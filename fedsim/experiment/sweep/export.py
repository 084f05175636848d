"""A sweep's table as CSV or Parquet, with its columns explained beside it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from fedsim.core.errors import FedsimError, MissingExtra, in_a_line
from fedsim.core.plain import csv_table
from fedsim.experiment.sweep.results import Found, columns, problems_of, read, rows_of
from fedsim.experiment.sweep.traces import BEFORE, COLUMNS, findings_of
from fedsim.record.store import explain, write_whole

_TRACES, _TRACE_COLUMNS = "side_channels.csv", "side_channels-columns.csv"
_SET = "what the sweep set"


def write_csv(path: Path) -> Path:
    """Write ``table.csv`` and ``table-columns.csv`` into the folder of a sweep or run, and return the first.

    Where traces of generations were attacked, their findings stand in ``side_channels.csv`` and
    ``side_channels-columns.csv``.

    Raises:
        FedsimError: it is the folder of neither.
    """
    found = read(path)
    names, rows = _table(found)
    _explain(path, names, found)
    write_whole(path / "table.csv", csv_table(names, rows))
    _write_traces(path, found)
    return path / "table.csv"


def write_parquet(path: Path) -> Path:
    """Write ``table.parquet`` and ``table-columns.csv``, and return the first.

    Raises:
        FedsimError: it is the folder of neither a sweep nor a run.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra("pyarrow", "pip install 'fedsim-privacy[parquet]'") from error
    found = read(path)
    names, rows = _table(found)
    _explain(path, names, found)
    values = zip(*rows, strict=True) if rows else ([] for _ in names)
    table = pyarrow.table({name: list(column) for name, column in zip(names, values, strict=True)})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    write_whole(path / "table.parquet", buffer.getvalue())
    return path / "table.parquet"


def write_duckdb(path: Path) -> Path:
    """Write ``results.duckdb`` and return it.

    Its table `results` holds the rows, its view `best` those of the attack that did best on each example: by the metric
    that decides about success, or the one by which such examples are ordered. Findings about traces of generations,
    where there are any, are its table `side_channels`.

    Raises:
        FedsimError: it is the folder of neither a sweep nor a run.
        MissingExtra: duckdb is not installed.
    """
    try:
        import duckdb  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtra("duckdb", "pip install 'fedsim-privacy[duckdb]'") from error
    source, target = write_csv(path), path / "results.duckdb"
    fresh = path / ".fedsim-results.duckdb"
    log = path / ".fedsim-results.duckdb.wal"
    try:
        fresh.unlink(missing_ok=True)
        with duckdb.connect(str(fresh)) as database:
            database.read_csv(str(source), sample_size=-1).create("results")
            if (traces := path / _TRACES).exists():
                database.read_csv(str(traces), sample_size=-1).create("side_channels")
            database.execute(
                "create view best as select * from results qualify "
                "row_number() over (partition by run, arm, round, client, image "
                f"order by {_order(path)}) = 1"
            )
        with explain(target):
            fresh.replace(target)
    except duckdb.Error as error:
        raise FedsimError(f"cannot write to {target}: {in_a_line(error)}") from error
    finally:
        fresh.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
    return target


def _order(path: Path) -> str:
    """Return by which columns one attack did better than another, in SQL."""
    records = [record for _, record in read(path) if not isinstance(record, str)]
    deciding = {record.scenario.get("scoring", {}).get("metric", "") for record in records}
    known = [metric for record in records for metric in record.declared.values()]
    wanted = {own.in_tables: own for own in known if own.name in deciding or own.leads}
    terms = [f'"{name}" {"desc" if own.better == "higher" else "asc"} nulls last' for name, own in wanted.items()]
    return ", ".join(terms) or "image"


def _table(found: Found) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows; a setting that is a table itself is written as text."""
    rows = rows_of(found)
    names = list(dict.fromkeys([*columns(found), *(name for row in rows for name in row)]))
    return names, [[_plain(row.get(name)) for name in names] for row in rows]


def _write_traces(path: Path, found: Found) -> None:
    """Write what traces gave away; an older table of a sweep that has none now is taken away."""
    rows = findings_of(found)
    if not rows:
        for name in (_TRACES, _TRACE_COLUMNS):
            (path / name).unlink(missing_ok=True)
        return
    known = {**BEFORE, **COLUMNS}
    names = list(dict.fromkeys([*known, *(name for row in rows for name in row)]))
    write_whole(path / _TRACE_COLUMNS, csv_table(("column", "meaning"), [(own, known.get(own, _SET)) for own in names]))
    write_whole(path / _TRACES, csv_table(names, [[_plain(row.get(name)) for name in names] for row in rows]))


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _explain(path: Path, names: list[str], found: Found) -> None:
    known = columns(found)
    meanings = [(name, known.get(name, _SET)) for name in names]
    absent = [(f"left out: {run.name}", why) for run, why in problems_of(found)]
    write_whole(path / "table-columns.csv", csv_table(("column", "meaning"), [*meanings, *absent]))
