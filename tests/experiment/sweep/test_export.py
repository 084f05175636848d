"""Tables of a sweep: CSV, Parquet and SQL say the same."""

import csv
from pathlib import Path

import pytest

from fedsim.experiment import sweep as sweeps
from fedsim.experiment.sweep.export import write_csv, write_duckdb, write_parquet
from tests.experiment.sweep.sweeping import GRID, made, scenario


def test_the_table_is_the_same_as_csv_and_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    made(tmp_path / "s", scenario(grid=GRID))
    with write_csv(tmp_path / "s").open() as file:
        texts = list(csv.DictReader(file))
    table = parquet.read_table(write_parquet(tmp_path / "s")).to_pylist()
    assert len(texts) == len(table) == 8
    assert [float(row["psnr_db"]) for row in texts] == [row["psnr_db"] for row in table]
    with (tmp_path / "s" / "table-columns.csv").open() as file:
        assert {row["column"] for row in csv.DictReader(file)} >= set(sweeps.COLUMNS)


def test_the_table_can_be_asked_in_sql(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    made(tmp_path / "s", scenario(grid=GRID))
    with duckdb.connect(str(write_duckdb(tmp_path / "s")), read_only=True) as database:
        (rows, best), *_ = database.sql("select count(*), max(psnr_db) from results").fetchall()
        assert database.sql("select count(*) from best").fetchall() == [(8,)]
    with write_csv(tmp_path / "s").open() as file:
        texts = list(csv.DictReader(file))
    assert (rows, best) == (len(texts), max(float(row["psnr_db"]) for row in texts))
