"""Findings about traces as a table: a row each, with what the sweep set, in CSV and DuckDB."""

import csv
from pathlib import Path
from typing import Any

import pytest

from fedsim.experiment.sweep.export import write_csv, write_duckdb
from fedsim.experiment.sweep.folder import PlannedRun
from fedsim.experiment.sweep.traces import BEFORE, COLUMNS, findings_of
from fedsim.record import RunRecord
from tests.report import records
from tests.report.sweeps import save
from tests.report.tables.test_generations import finding
from tests.report.tables.test_generations import record as spoken

FAILED = finding(0.1, 0.2, label="lost", found=None, failure="it learns from known texts")


def planned(number: int) -> PlannedRun:
    return PlannedRun(digest=f"{number:016x}", name=f"tokens {number}", values={"generation.tokens": number})


def test_every_finding_is_a_row_with_what_the_sweep_set() -> None:
    first, second = spoken(finding(0.5, 0.6)), spoken(finding(0.1, 0.2), FAILED)
    rows = findings_of([(planned(1), first), (planned(2), second), (planned(3), "not finished yet")])
    assert all(list(row) == [*BEFORE, *COLUMNS, "generation.tokens"] for row in rows)
    assert [(row["setting"], row["label"], row["value"], row["low"]) for row in rows] == [
        ("tokens 1", "forest", 0.6, 0.5), ("tokens 2", "forest", 0.2, 0.1), ("tokens 2", "lost", None, None)
    ]  # fmt: skip
    assert [row["failure"] for row in rows] == ["", "", "it learns from known texts"]
    assert {row["decoder"] for row in rows} == {"aded"}
    assert findings_of([(planned(1), records.typical())]) == []


def stored(folder: Path, *runs: RunRecord) -> Path:
    return save(folder, records, [("none", number, own) for number, own in enumerate(runs)])


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_export_writes_them_beside_the_table_and_takes_old_ones_away(tmp_path: Path) -> None:
    folder = stored(tmp_path / "sweep", spoken(finding(0.5, 0.6)), spoken(FAILED))
    write_csv(folder)
    rows = read(folder / "side_channels.csv")
    assert [(row["label"], row["value"], row["defense"]) for row in rows] == [
        ("forest", "0.6", "none"), ("lost", "", "none")
    ]  # fmt: skip
    told = {row["column"]: row["meaning"] for row in read(folder / "side_channels-columns.csv")}
    assert list(told) == list(rows[0])
    assert told["defense"] == "what the sweep set"
    for path in (folder / "runs").iterdir():
        records.save(path, records.typical())
    write_csv(folder)
    assert not list(folder.glob("side_channels*"))


def test_they_are_a_table_of_the_data_base(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    folder = stored(tmp_path / "sweep", spoken(finding(0.5, 0.6)))
    with duckdb.connect(str(write_duckdb(folder)), read_only=True) as database:
        assert database.execute("select label, value from side_channels").fetchall() == [("forest", 0.6)]
