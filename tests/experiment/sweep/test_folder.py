"""Folders of sweeps: what is the same sweep, and mistakes."""

import shutil
from pathlib import Path

import pytest

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.experiment import sweep as sweeps
from fedsim.experiment.sweep.folder import SweepFolder
from fedsim.record.atomic_files import LOCK, MANIFEST
from fedsim.record.store import RunFolder
from fedsim.scenario import parse
from tests.experiment.sweep.sweeping import HERE, SMALL, made, scenario


def test_a_policy_that_changed_is_the_same_sweep_and_is_written_down(tmp_path: Path) -> None:
    wanted = scenario(seeds=[1])
    made(tmp_path / "s", wanted)
    judged = parse({**SMALL, "sweep": {"seeds": [1]}, "policy": {"max_recovered": 0.05}}, "test")
    assert [outcome.status for outcome in made(tmp_path / "s", judged)] == ["reused"]
    assert SweepFolder(tmp_path / "s").plan().scenario["policy"]["max_recovered"] == 0.05


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
    with RunFolder(tmp_path / "s").lock(), pytest.raises(FedsimError, match="another fedsim is at work"):
        made(tmp_path / "s", scenario(seeds=[1]))


@pytest.mark.parametrize("name", ["runs", "failures", "logs", "runs/DIGEST"])
def test_a_sweep_writes_through_no_link(tmp_path: Path, name: str) -> None:
    wanted, folder = scenario(seeds=[1]), SweepFolder(tmp_path / "s")
    made(folder.path, wanted, budget=0.0)
    (digest,) = (run.digest for run in folder.plan().runs)
    link, elsewhere = folder.path / name.replace("DIGEST", digest), tmp_path / "elsewhere"
    elsewhere.mkdir()
    if link.is_dir():
        shutil.rmtree(link)
    link.symlink_to(elsewhere)
    with pytest.raises(FedsimError, match=f"{link} is a symbolic link"):
        made(folder.path, wanted)
    assert not any(elsewhere.iterdir())


def test_locks_of_killed_workers_go_and_locks_in_use_stay(tmp_path: Path) -> None:
    wanted, folder = scenario(seeds=[1, 2]), SweepFolder(tmp_path / "s")
    made(folder.path, wanted, budget=0.0)
    stale, used = (folder.run_path(run.digest) for run in folder.plan().runs)
    stale.mkdir()
    (stale / LOCK).touch()
    with RunFolder(used).lock():
        with folder.lock_for_sweep(folder.plan()):
            assert not (stale / LOCK).exists()
            assert (used / LOCK).exists()
            (stale / LOCK).touch()
        assert not (stale / LOCK).exists()
        assert (used / LOCK).exists()
    assert not (folder.path / LOCK).exists()


def test_the_manifest_names_every_file_of_a_sweep_and_its_runs_have_their_own(tmp_path: Path) -> None:
    raising = parse({**SMALL, "data": {"name": f"{HERE}:moody"}, "sweep": {"seeds": [1]}}, "test")
    folder = SweepFolder(tmp_path / "s")
    assert [outcome.status for outcome in made(folder.path, raising)] == ["failed"]
    folder.keep_origin("origin")
    (digest,) = (run.digest for run in folder.plan().runs)
    files = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    ours = {line for line in (folder.path / MANIFEST).read_text().splitlines() if " " not in line}
    assert ours == {"sweep.json", "origin.json", f"failures/{digest}.json", "logs/worker-0.log"}
    assert {name for name in files if not name.startswith("runs/")} <= ours | {MANIFEST}


def test_a_failure_is_not_removed_through_a_link(tmp_path: Path) -> None:
    folder, elsewhere = SweepFolder(tmp_path / "s"), tmp_path / "elsewhere"
    made(folder.path, scenario(seeds=[1]), budget=0.0)
    elsewhere.mkdir()
    (elsewhere / "0.json").write_text("precious")
    (folder.path / "failures").rmdir()
    (folder.path / "failures").symlink_to(elsewhere)
    with pytest.raises(FedsimError, match=r"failures/0\.json: Not a directory"):
        folder.note("0", None)
    assert (elsewhere / "0.json").read_text() == "precious"


def test_a_run_and_a_sweep_do_not_replace_each_other(tmp_path: Path) -> None:
    made(tmp_path / "s", scenario(seeds=[1]), budget=0.0)
    with pytest.raises(FedsimError, match=r"s holds a sweep\. Choose another --out"):
        RunFolder(tmp_path / "s").create(overwrite=True)
    RunFolder(tmp_path / "r").write("record.json", b"{}")
    with pytest.raises(FedsimError, match=r"r holds a run\. Choose another --out"):
        made(tmp_path / "r", scenario(seeds=[1]), budget=0.0)


def test_files_of_killed_writes_go_when_the_sweep_continues(tmp_path: Path) -> None:
    wanted = scenario(seeds=[1])
    made(tmp_path / "s", wanted, budget=0.0)
    rests = [tmp_path / "s" / name for name in (".fedsim-0a", "failures/.fedsim-0b")]
    for rest in rests:
        rest.touch()
    made(tmp_path / "s", wanted, budget=0.0)
    assert not any(rest.exists() for rest in rests)
