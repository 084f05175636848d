"""Tables of a sweep: CSV, Parquet and SQL say the same."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedsim.core import registry
from fedsim.experiment.sweep import export
from fedsim.experiment.sweep.export import write_csv, write_duckdb, write_parquet
from fedsim.experiment.sweep.results import BEFORE_FINDINGS
from fedsim.record import Finding, RunRecord
from fedsim.record.finding_rows import FINDING_COLUMNS
from fedsim.record.store import RunFolder
from tests.experiment.sweep.sweeping import GRID, made, scenario
from tests.report import records
from tests.report.made_findings import LOST, PADDED, STRONG
from tests.report.sweeps import save


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
        explained = [row["column"] for row in csv.DictReader(file)]
    assert explained == list(texts[0])
    assert {*BEFORE_FINDINGS, "arm", "attack", "round", "client", "image", "psnr_db"} <= set(explained)
    assert all(any(row[name] for row in texts) for name in explained if name not in BEFORE_FINDINGS)
    assert "joins_right" not in explained  # a metric of another task


def test_the_table_can_be_asked_in_sql(swept: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(write_duckdb(swept)), read_only=True) as database:
        (rows, best), *_ = database.sql("select count(*), max(psnr_db) from results").fetchall()
        assert database.sql("select count(*) from best").fetchall() == [(8,)]
    with write_csv(swept).open() as file:
        texts = list(csv.DictReader(file))
    assert (rows, best) == (len(texts), max(float(row["psnr_db"]) for row in texts))


def stored(folder: Path, *runs: RunRecord | str) -> Path:
    return save(folder, records, [("none", number, own) for number, own in enumerate(runs)])


def told(*findings: Finding) -> RunRecord:
    return records.run([records.arm("all", [], findings=findings)])


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_of_a_finding_is_a_row_with_what_the_sweep_set(tmp_path: Path) -> None:
    folder = stored(tmp_path / "sweep", told(STRONG), told(PADDED, LOST), "not finished yet", records.typical())
    write_csv(folder)
    every = read(folder / "findings.csv")
    assert all(list(row) == [*BEFORE_FINDINGS, *FINDING_COLUMNS, "defense"] for row in every)
    assert {(row["label"], row["metric"]) for row in every if row["question"] == "attacks"} >= {("ig", "success")}
    rows = [row for row in every if row["question"] != "attacks"]
    assert [(row["label"], row["metric"], row["value"], row["low"], row["defense"]) for row in rows] == [
        ("forest (prompt)", "prompt_accuracy", "0.6", "0.5", "none"),
        ("padded (prompt)", "prompt_accuracy", "0.02", "0.01", "none"),
        ("padded (prompt)", "step_ratio", "1.5", "", "none"),
        ("padded (prompt)", "token_ratio", "3.0", "", "none"),
        ("lost (prompt)", "prompt_accuracy", "", "", "none"),
    ]
    assert [row["failure"] for row in rows][-2:] == ["", "it learns from known texts"]
    assert {row["setting"] for row in rows} == {"defense none"}
    assert [row["run"][-1] for row in rows] == ["0", "1", "1", "1", "1"]


def test_an_export_writes_findings_beside_the_table_and_takes_old_ones_away(tmp_path: Path) -> None:
    folder = stored(tmp_path / "sweep", told(STRONG), told(LOST))
    write_csv(folder)
    meanings = {row["column"]: row["meaning"] for row in read(folder / "findings-columns.csv")}
    assert list(meanings) == list(read(folder / "findings.csv")[0])
    assert meanings["defense"] == "the sweep's settings"
    for path in (folder / "runs").iterdir():
        records.save(path, records.run([records.arm("all", [])]))
    write_csv(folder)
    assert not list(folder.glob("findings*"))


def test_findings_are_a_table_of_the_data_base(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    folder = stored(tmp_path / "sweep", told(STRONG))
    with duckdb.connect(str(write_duckdb(folder)), read_only=True) as database:
        assert database.execute("select label, value from findings").fetchall() == [("forest (prompt)", 0.6)]


def test_the_best_attack_on_an_example_comes_first_whichever_direction_is_better(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    every = registry.every_metric()
    (low,) = [own for own in every.values() if own.name == "number_error"]
    leading = next(own for own in every.values() if own.leads and own.better == "higher")
    assert low.better == "lower"
    record = SimpleNamespace(plan={"scoring": {"metric": low.name}}, metrics_by_name={"a": leading, "b": low})
    monkeypatch.setattr(export, "read", lambda _path: [("run", record), ("broken", "it cannot be read")])
    table = tmp_path / "table.csv"
    table.write_text(f"run,{leading.column_name},{low.column_name}\n")
    assert export._order(Path(), table) == (
        f'"{leading.column_name}" desc nulls last, "{low.column_name}" asc nulls last'
    )
    table.write_text(f"run,{low.column_name}\n")  # no example has a value of the other metric
    assert export._order(Path(), table) == f'"{low.column_name}" asc nulls last'


def test_what_an_export_writes_into_a_run_goes_with_it(tmp_path: Path) -> None:
    folder = records.save(tmp_path / "run", told(STRONG))
    write_csv(folder)
    assert (folder / "findings-columns.csv").exists()
    RunFolder(folder).create(overwrite=True)
    assert list(folder.iterdir()) == []
