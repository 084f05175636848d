"""Sweeps: what is planned, that nothing is computed twice or lost, and what a hostile run can do."""

import csv
import errno
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import FedsimError, MissingExtra, ScenarioError
from fedsim.core.registry import for_scenarios
from fedsim.experiment import sweep as sweeps
from fedsim.experiment.runner import scenario_hash
from fedsim.experiment.sweep.executors.processes import Processes
from fedsim.experiment.sweep.executors.ray import on_ray
from fedsim.experiment.sweep.export import write_csv, write_duckdb, write_parquet
from fedsim.experiment.sweep.folder import SweepFolder, plan_of
from fedsim.experiment.sweep.heads import is_finished
from fedsim.experiment.sweep.origin import finished_before, origin_of
from fedsim.experiment.sweep.results import problems
from fedsim.experiment.sweep.run import Outcome
from fedsim.scenario import Scenario, Sweep, parse

HERE = "tests.experiment.sweep.test_sweep"  # a sweep finds functions of this file by its name
SMALL: dict[str, Any] = {
    "title": "small <b>sweep</b>",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "federation": {"clients": 4},
    "threat": {"victims": 2},
    "attacks": [{"name": "closed-form-linear"}],
}
GRID = {
    "model.dropout": [0.0, 0.5],
    "defense": {"none": {"defenses": []}, "noise": {"defenses": [{"name": "gradient-noise", "scale": 0.01}]}},
}


def scenario(**sweep: Any) -> Scenario:
    return parse({**SMALL, "sweep": sweep}, "test")


def made(path: Path, wanted: Scenario, jobs: int = 1, **options: Any) -> list[Outcome]:
    runs = sweeps.plan_runs(wanted, "test")
    folder = SweepFolder(path)
    folder.prepare(plan_of(wanted.title, scenario_hash(wanted), wanted.model_dump_json(), runs))
    with folder.locked():
        options = {"executor": Processes(), "command": "test", **options}
        return sweeps.sweep(folder, runs, wanted.sweep or Sweep(), jobs=jobs, **options)


def test_every_combination_is_a_run_of_its_own_and_equal_ones_are_one() -> None:
    runs = sweeps.plan_runs(scenario(grid=GRID, seeds=[1, 2, 3]), "test")
    assert len(runs) == len({run.digest for run in runs}) == 12
    assert runs[0].values == {"model.dropout": 0.0, "defense": "none", "seed": 1}
    assert runs[-1].name == "dropout 0.5, defense noise, seed 3"
    listed = scenario(runs=[{"federation.batch_size": 2}, {"model.width": 9, "model.dropout": 0.5}, {"model.width": 8}])
    assert [run.values for run in sweeps.plan_runs(listed, "test")][1] == {
        "model.width": 9,
        "model.dropout": 0.5,
        "seed": 0,
    }
    again = scenario(runs=[{"model.width": 8}, {"model.width": 8, "model.depth": 1}])
    assert len(sweeps.plan_runs(again, "test")) == 1


def test_runs_of_one_seed_share_their_victims(tmp_path: Path) -> None:
    made(tmp_path / "s", scenario(grid=GRID, seeds=[5]), jobs=2)
    rows = sweeps.load(tmp_path / "s")
    assert list(rows[0])[: len(sweeps.COLUMNS)] == list(sweeps.COLUMNS)
    labels = {(row["defense"], row["model.dropout"]): [] for row in rows}
    for row in rows:
        labels[row["defense"], row["model.dropout"]].append((row["client"], row["image"], row["label"]))
    assert len(labels) == 4
    assert len({tuple(own) for own in labels.values()}) == 1


def test_what_is_finished_is_not_computed_again_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    wanted = scenario(grid={"data.name": ["digits", f"{HERE}:moody"]})
    ended = made(tmp_path / "s", wanted)
    assert [outcome.status for outcome in ended] == ["finished", "failed"]
    assert ended[1].failure is not None
    assert "not in the mood" in ended[1].failure.why
    assert [(run.values["data.name"], "mood" in why) for run, why in problems(tmp_path / "s")] == [
        (f"{HERE}:moody", True)
    ]
    record = next((tmp_path / "s" / "runs").glob("*/record.json"))
    before = record.stat().st_mtime_ns
    ended = made(tmp_path / "s", wanted)
    assert [outcome.status for outcome in ended] == ["reused", "failed"]
    assert ended[1].failure is not None
    assert ended[1].failure.attempts == 2
    assert record.stat().st_mtime_ns == before


@for_scenarios
def moody() -> Any:
    """A user's data set that raises."""
    raise ValueError("not in the mood")


def noisy(shape: Any = None) -> Any:
    """A user's data set that prints, hangs, dies or eats, as the environment says."""
    print("{not json")
    mood = os.environ.get("MOOD", "")
    if mood == "hang":
        time.sleep(600)
    if mood == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if mood == "eat":
        _ = bytearray(64 << 30)
    from fedsim.core import registry

    digits = registry.get("dataset", "digits")
    return digits.make(digits.config())


@pytest.mark.parametrize(
    ("mood", "limits", "cause", "why"),
    [
        ("hang", {"minutes": 0.25}, "timeout", "longer than sweep.minutes"),
        ("die", {}, "killed", "ended with -9"),
        ("eat", {"memory": 8}, "error", "MemoryError"),
    ],
)
def test_a_hostile_run_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mood: str, limits: dict[str, Any], cause: str, why: str
) -> None:
    monkeypatch.setenv("MOOD", mood)
    ended = made(tmp_path / "s", scenario(grid={"data.name": [f"{HERE}:noisy", "digits"]}, **limits))
    assert [outcome.status for outcome in ended] == ["failed", "finished"]
    assert ended[0].failure is not None
    assert (ended[0].failure.cause, why in ended[0].failure.why) == (cause, True)
    monkeypatch.setenv("MOOD", "")
    ended = made(tmp_path / "s", scenario(grid={"data.name": [f"{HERE}:noisy", "digits"]}, **limits))
    assert sorted(outcome.status for outcome in ended) == ["finished", "reused"]
    assert "{not json" in (tmp_path / "s" / "logs" / "worker-0.log").read_text()


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


def test_only_a_whole_record_counts_as_finished(tmp_path: Path) -> None:
    whole = '{\n "schema_version": 1,\n "status": "finished",\n "arms": [\n  {\n  }\n ],\n "failures": {\n }\n}'
    record = tmp_path / "record.json"
    assert not is_finished(record)
    record.write_text(whole)
    assert is_finished(record)
    for end in range(len(whole)):
        record.write_text(whole[:end])
        assert not is_finished(record)


def test_a_record_of_an_older_version_is_named_and_made_again_beside_it(tmp_path: Path) -> None:
    wanted = scenario(seeds=[1])
    made(tmp_path / "s", wanted)
    (record,) = (tmp_path / "s" / "runs").glob("*/record.json")
    older = record.read_text().replace('"schema_version": 2', '"schema_version": 0')
    record.write_text(older)
    ((_, why),) = problems(tmp_path / "s")
    assert f"{record} has schema version 0, expected 2" in why
    assert [outcome.status for outcome in made(tmp_path / "s", wanted)] == ["finished"]
    assert record.with_name("record.json.corrupted").read_text() == older
    record.write_text("garbage")
    ((_, why),) = problems(tmp_path / "s")
    assert f"{record} cannot be read" in why


def test_a_policy_that_changed_is_the_same_sweep_and_is_written_down(tmp_path: Path) -> None:
    wanted = scenario(seeds=[1])
    made(tmp_path / "s", wanted)
    judged = parse({**SMALL, "sweep": {"seeds": [1]}, "policy": {"max_recognisable": 0.05}}, "test")
    assert [outcome.status for outcome in made(tmp_path / "s", judged)] == ["reused"]
    assert SweepFolder(tmp_path / "s").plan().scenario["policy"]["max_recognisable"] == 0.05


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="'model.dropout' has no value"):
        scenario(grid={"model.dropout": []})
    with pytest.raises(
        ScenarioError, match=r"(?s)model\.dropout.*This is the run with model\.dropout = 1\.5, seed = 0"
    ):
        sweeps.plan_runs(scenario(grid={"model.dropout": [0.5, 1.5]}), "test")
    made(tmp_path / "s", scenario(seeds=[1]), budget=0.0)
    with pytest.raises(FedsimError, match=r"holds another sweep, 'small <b>sweep</b>'"):
        made(tmp_path / "s", scenario(seeds=[2]), budget=0.0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(FedsimError, match="holds 'thesis.tex'"):
        made(tmp_path / "mine", scenario(seeds=[1]))
    with pytest.raises(FedsimError, match=r"holds no sweep\.json"):
        SweepFolder(tmp_path / "mine").plan()
    with SweepFolder(tmp_path / "s").locked(), pytest.raises(FedsimError, match="another sweep is at work"):
        made(tmp_path / "s", scenario(seeds=[1]))


def test_a_budget_begins_nothing_after_its_end(tmp_path: Path) -> None:
    assert made(tmp_path / "s", scenario(seeds=[1, 2]), budget=0.0) == []
    assert [why for _, why in problems(tmp_path / "s")] == ["not finished yet"] * 2


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


def full_disk() -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_the_sweep_and_blames_no_run(tmp_path: Path) -> None:
    wanted = parse(
        {**SMALL, "data": {"name": f"{HERE}:full_disk"}, "sweep": {"seeds": [1, 2, 3]}},
        "test",
    )
    outcomes = made(tmp_path / "s", wanted)
    assert [outcome.failure.cause for outcome in outcomes if outcome.failure] == ["disk"]
    assert not list((tmp_path / "s" / "failures").iterdir())
    assert not list((tmp_path / "s" / "runs").rglob("record.json"))


def test_a_finished_sweep_is_known_without_torch_and_only_by_the_same_command(tmp_path: Path) -> None:
    path, out = tmp_path / "s.toml", tmp_path / "out"
    text = 'title = "s"\n[data]\nname = "digits"\n[model]\nname = "mlp"\nwidth = 4\ndepth = 1\n[sweep]\nseeds = [1]\n'
    path.write_text(text)
    wanted = parse(tomllib.loads(text), "test")
    made(out, wanted)
    SweepFolder(out).keep_origin(origin_of(path, []))
    told = (
        "import sys; from pathlib import Path; from fedsim.experiment.sweep.origin import finished_before, origin_of;"
        f"print(finished_before(Path({str(out)!r}), origin_of(Path({str(path)!r}), [])), 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", told], check=True, capture_output=True).stdout == b"1 False\n"
    assert finished_before(out, origin_of(path, ["model.width=5"])) is None
    assert finished_before(out, origin_of(tmp_path / "absent.toml", [])) is None
    record = next(out.rglob("record.json"))
    whole = record.read_bytes()
    record.write_bytes(whole.replace(b'"finished"', b'"interrupted"', 1))
    assert finished_before(out, origin_of(path, [])) is None
    record.write_bytes(whole)
    (out / "origin.json").write_text("{")
    assert finished_before(out, origin_of(path, [])) is None


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_ray_cluster_makes_the_same_bytes_and_a_run_that_raises_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        'title = "s"\n[model]\nname = "mlp"\nwidth = 8\ndepth = 1\n[federation]\nclients = 4\n'
        '[[attacks]]\nname = "closed-form-linear"\n[sweep.grid]\n'
        f'"data.name" = ["digits", "{HERE}:moody"]\n'
    )
    for out, options in (("here", ()), ("there", ("--ray", "local", "--jobs", "2"))):
        done = subprocess.run(command(path, tmp_path / out, *options), check=False, capture_output=True, text=True)
        assert (done.returncode, "1 of 2 runs are finished" in done.stdout) == (1, True)
        assert "not in the mood" in done.stderr
    assert write_csv(tmp_path / "here").read_bytes() == write_csv(tmp_path / "there").read_bytes()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"fedsim-privacy\[flower-sim\]"), on_ray(None):
        pass


def command(path: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "fedsim.cli", "sweep", str(path), "--out", str(out), *options]


def killed_until_done(tmp_path: Path, kills: int, seeds: int, longest: float) -> None:
    """Kill a sweep so many times at random moments, let it end, and compare with an undisturbed one."""
    path = tmp_path / "sweep.toml"
    lines = [
        f'title = "killed"\n[data]\nname = "digits"\n[model]\nname = "mlp"\nwidth = 8\ndepth = 1\n'
        f'[federation]\nclients = 4\n[threat]\nvictims = 4\n[[attacks]]\nname = "closed-form-linear"\n'
        f"[sweep]\nseeds = {list(range(seeds))}\n"
    ]
    path.write_text("".join(lines))
    numbers = random.Random(kills)
    for _ in range(kills):
        process = subprocess.Popen(command(path, tmp_path / "killed", "--jobs", "2"), stdout=subprocess.DEVNULL)
        time.sleep(numbers.uniform(2.0, longest))
        process.kill()
        process.wait()
    for out in ("killed", "undisturbed"):
        subprocess.run(command(path, tmp_path / out, "--jobs", "2"), check=True, stdout=subprocess.DEVNULL)
    tables = [write_csv(tmp_path / out).read_bytes() for out in ("killed", "undisturbed")]
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 1 + 4 * seeds


def test_a_sweep_that_was_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    killed_until_done(tmp_path, kills=1, seeds=6, longest=6.0)


@pytest.mark.slow
def test_twenty_kills_change_no_byte(tmp_path: Path) -> None:
    killed_until_done(tmp_path, kills=20, seeds=60, longest=10.0)


def test_the_command_line_says_what_failed_and_refuses_a_plain_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'title = "s"\n[data]\nname = "{HERE}:moody"\n[model]\nname = "mlp"\n[sweep]\nseeds = [1]\n')
    done = subprocess.run(command(path, tmp_path / "out"), check=False)
    told = capfd.readouterr()
    assert done.returncode == 1
    assert "not in the mood" in told.err
    assert "0 of 1 runs are finished" in told.out
    refused = subprocess.run([sys.executable, "-m", "fedsim.cli", "run", str(path)], check=False)
    assert refused.returncode == 2
    assert f"Use: fedsim sweep {path}" in capfd.readouterr().err.replace("\n", " ")
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["title"] == "s"


def test_the_table_can_be_asked_in_sql(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    made(tmp_path / "s", scenario(grid=GRID))
    with duckdb.connect(str(write_duckdb(tmp_path / "s")), read_only=True) as database:
        (rows, best), *_ = database.sql("select count(*), max(psnr_db) from results").fetchall()
        assert database.sql("select count(*) from best").fetchall() == [(8,)]
    with write_csv(tmp_path / "s").open() as file:
        texts = list(csv.DictReader(file))
    assert (rows, best) == (len(texts), max(float(row["psnr_db"]) for row in texts))
