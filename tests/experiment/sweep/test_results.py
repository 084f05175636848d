"""Rows of a sweep, and records that are corrupt or older."""

from pathlib import Path

from fedsim.experiment import sweep as sweeps
from fedsim.experiment.sweep.results import problems
from tests.experiment.sweep.sweeping import GRID, made, scenario


def test_runs_of_one_seed_share_their_victims(tmp_path: Path) -> None:
    made(tmp_path / "s", scenario(grid=GRID, seeds=[5]), jobs=2)
    rows = sweeps.load(tmp_path / "s")
    assert list(rows[0])[: len(sweeps.COLUMNS)] == list(sweeps.COLUMNS)
    labels = {(row["defense"], row["model.dropout"]): [] for row in rows}
    for row in rows:
        labels[row["defense"], row["model.dropout"]].append((row["client"], row["image"], row["label"]))
    assert len(labels) == 4
    assert len({tuple(own) for own in labels.values()}) == 1


def test_a_corrupted_record_is_named_left_out_and_kept(tmp_path: Path) -> None:
    wanted = scenario(seeds=[1, 2])
    made(tmp_path / "s", wanted)
    record = sorted((tmp_path / "s" / "runs").glob("*/record.json"))[0]
    whole = record.read_text()
    record.write_text(whole[: len(whole) // 2])
    assert len({row["run"] for row in sweeps.load(tmp_path / "s")}) == 1
    ((_, why),) = problems(tmp_path / "s")
    assert str(record) in why
    assert record.read_text() == whole[: len(whole) // 2]
    assert sorted(outcome.status for outcome in made(tmp_path / "s", wanted)) == ["finished", "reused"]
    assert record.with_name("record.json.corrupted").read_text() == whole[: len(whole) // 2]
    assert not problems(tmp_path / "s")


def test_a_record_of_an_older_version_is_named_and_made_again_beside_it(tmp_path: Path) -> None:
    wanted = scenario(seeds=[1])
    made(tmp_path / "s", wanted)
    (record,) = (tmp_path / "s" / "runs").glob("*/record.json")
    older = record.read_text().replace('"schema_version": 3', '"schema_version": 2')
    record.write_text(older)
    ((_, why),) = problems(tmp_path / "s")
    assert f"{record} has schema version 2, expected 3" in why
    assert [outcome.status for outcome in made(tmp_path / "s", wanted)] == ["finished"]
    assert record.with_name("record.json.corrupted").read_text() == older
    record.write_text("garbage")
    ((_, why),) = problems(tmp_path / "s")
    assert f"{record} cannot be read" in why
