"""Attacked updates in the run folder: what travelled, and what it was before the defenses that change uploads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.experiment.runner import train
from fedsim.federation.client import local_training
from fedsim.record.store import RunFolder, read_record
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.federating import recorded

Build = Callable[..., Scenario]
WATCHED = {"federation": {"clients": 4, "rounds": 3}, "threat": {"rounds": [1, 3], "victims": 2}}


def stored(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_what_travelled_is_kept_for_the_watched_clients_alone(scenario: Build, tmp_path: Path) -> None:
    built = scenario(**WATCHED, defenses=[{"name": "gradient-noise"}])
    (arm,) = recorded(built, tmp_path / "run").arms
    assert [(u.round, u.client, u.file, u.raw_is_wire) for u in arm.updates] == [
        (round_, client, "updates/arm-0.npz", True) for round_ in (1, 3) for client in (0, 1)
    ]
    arrays = stored(tmp_path / "run" / "updates" / "arm-0.npz")
    entries = train(worlds.build(built), lambda _record: None).entries
    expected = {
        f"round-{entry.round}/client-{entry.client}/wire/{name}": tensor.numpy()
        for entry in entries
        for name, tensor in entry.update.tensors.items()
    }
    assert arrays.keys() == expected.keys()
    assert all(arrays[name].dtype == np.float32 and np.array_equal(arrays[name], expected[name]) for name in arrays)
    assert read_record(tmp_path / "run").arms[0].updates == arm.updates


@pytest.mark.parametrize("engine", ["local", "vectorized"])
def test_a_defense_that_changes_uploads_leaves_both_sides(
    scenario: Build, counting: Any, tmp_path: Path, engine: str
) -> None:
    assert counting.keeps_state
    built = scenario(federation={"clients": 2, "engine": engine}, defenses=[{"name": "error-feedback"}])
    (arm,) = recorded(built, tmp_path / "run").arms
    assert [update.raw_is_wire for update in arm.updates] == [False]
    arrays = stored(tmp_path / "run" / arm.updates[0].file)
    world = worlds.build(built)
    sent, truth = local_training(world, world.models.first_weights, 1, 0, {})
    for side, tensors in (("wire", sent.tensors), ("raw", truth.raw.tensors)):
        for name, tensor in tensors.items():
            kept = torch.from_numpy(arrays[f"round-1/client-0/{side}/{name}"])
            torch.testing.assert_close(kept, tensor, rtol=1e-5, atol=1e-7)
            assert engine == "vectorized" or torch.equal(kept, tensor)
    assert len(arrays) == 2 * len(sent.tensors)


def test_on_an_engine_that_rounds_differently_a_raw_update_is_not_told_apart(scenario: Build, tmp_path: Path) -> None:
    built = scenario(federation={"clients": 2, "engine": "vectorized"})
    (arm,) = recorded(built, tmp_path / "run").arms
    assert [update.raw_is_wire for update in arm.updates] == [True]


def test_buffers_are_kept_with_the_tensors(scenario: Build, tmp_path: Path) -> None:
    built = scenario(
        data={"name": "digits", "size": 32},
        model={"name": "torchvision", "classifier": "shufflenet_v2_x0_5"},
        federation={"clients": 2, "batch_size": 2},
    )
    (arm,) = recorded(built, tmp_path / "run").arms
    assert "round-1/client-0/wire/1.conv1.1.running_mean" in stored(tmp_path / "run" / arm.updates[0].file)


def test_every_arm_has_a_file_of_its_own_and_the_same_scenario_the_same_bytes(scenario: Build, tmp_path: Path) -> None:
    built = scenario(arms={"model.dropout": [0.0, 0.25]})
    for name in ("a", "b"):
        record = recorded(built, tmp_path / name)
        assert [arm.updates[0].file for arm in record.arms] == ["updates/arm-0.npz", "updates/arm-1.npz"]
    for arm in ("arm-0.npz", "arm-1.npz"):
        assert (tmp_path / "a" / "updates" / arm).read_bytes() == (tmp_path / "b" / "updates" / arm).read_bytes()
    folder = RunFolder(tmp_path / "a")
    folder.create(overwrite=True)
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize(
    "tables",
    [{"threat": {"keep_updates": False}}, {"participation": {"always_crash": [0, 1, 2, 3]}}],
    ids=["not asked for", "nobody counted"],
)
def test_nothing_is_kept(scenario: Build, tmp_path: Path, tables: dict[str, Any]) -> None:
    (arm,) = recorded(scenario(**tables), tmp_path / "run").arms
    assert arm.updates == ()
    assert not (tmp_path / "run" / "updates").exists()
