"""Nothing is computed twice or lost, whatever ends a sweep."""

import random
import subprocess
import time
from pathlib import Path

import pytest

from fedsim.experiment.sweep.export import write_csv
from fedsim.experiment.sweep.results import problems
from fedsim.scenario import parse
from tests.experiment.sweep.sweeping import HERE, SMALL, command, made, scenario


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


def test_a_budget_begins_nothing_after_its_end(tmp_path: Path) -> None:
    assert made(tmp_path / "s", scenario(seeds=[1, 2]), budget=0.0) == []
    assert [why for _, why in problems(tmp_path / "s")] == ["not finished yet"] * 2


def test_a_full_disk_ends_the_sweep_and_blames_no_run(tmp_path: Path) -> None:
    wanted = parse(
        {**SMALL, "data": {"name": f"{HERE}:full_disk"}, "sweep": {"seeds": [1, 2, 3]}},
        "test",
    )
    outcomes = made(tmp_path / "s", wanted)
    assert [outcome.failure.cause for outcome in outcomes if outcome.failure] == ["disk"]
    assert not list((tmp_path / "s" / "failures").iterdir())
    assert not list((tmp_path / "s" / "runs").rglob("record.json"))


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    killed_until_done(tmp_path, kills=1, seeds=6, longest=6.0)


@pytest.mark.slow
def test_twenty_kills_change_no_byte(tmp_path: Path) -> None:
    killed_until_done(tmp_path, kills=20, seeds=60, longest=10.0)
