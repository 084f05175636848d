"""Tables of a sweep: CSV, Parquet and SQL say the same."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsim.core import registry
from fedsim.experiment import sweep as sweeps
from fedsim.experiment.sweep import export
from fedsim.experiment.sweep.export import write_csv, write_duckdb, write_parquet
from tests.experiment.sweep.sweeping import GRID, made, scenario


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep of four runs."""
    path = tmp_path_factory.mktemp("swept") / "s"
    made(path, scenario(grid=GRID))
    return path


def test_the_table_is_the_same_as_csv_and_parquet(swept: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with write_csv(swept).open() as file:
        texts = list(csv.DictReader(file))
    table = parquet.read_table(write_parquet(swept)).to_pylist()
    assert len(texts) == len(table) == 8
    assert [float(row["psnr_db"]) for row in texts] == [row["psnr_db"] for row in table]
    with (swept / "table-columns.csv").open() as file:
        assert {row["column"] for row in csv.DictReader(file)} >= set(sweeps.COLUMNS)


def test_the_table_can_be_asked_in_sql(swept: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(write_duckdb(swept)), read_only=True) as database:
        (rows, best), *_ = database.sql("select count(*), max(psnr_db) from results").fetchall()
        assert database.sql("select count(*) from best").fetchall() == [(8,)]
    with write_csv(swept).open() as file:
        texts = list(csv.DictReader(file))
    assert (rows, best) == (len(texts), max(float(row["psnr_db"]) for row in texts))


def test_the_best_attack_on_an_example_comes_first_whichever_direction_is_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = registry.every_metric()
    (low,) = [own for own in every.values() if own.name == "number_error"]
    leading = next(own for own in every.values() if own.leads and own.better == "higher")
    assert low.better == "lower"
    record = SimpleNamespace(scenario={"scoring": {"metric": low.name}}, declared={"a": leading, "b": low})
    monkeypatch.setattr(export, "read", lambda _path: [("run", record), ("broken", "it cannot be read")])
    assert export._order(Path()) == (f'"{leading.in_tables}" desc nulls last, "{low.in_tables}" asc nulls last')
