"""Files of first weights: a good one is loaded, and no other runs, changes or ends anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.scenario import world as worlds
from tests.experiment.running import Build


class Malicious:
    """What it is pickled as runs where it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "was here")


def started(scenario: Build, path: Path) -> worlds.World:
    world = worlds.build(scenario(model={"name": "mlp", "width": 24, "depth": 2, "checkpoint": str(path)}))
    assert world.models.first_weights
    return world


def test_a_pt_file_gives_the_first_weights(scenario: Build, tmp_path: Path) -> None:
    own = worlds.build(scenario(model={"name": "mlp", "width": 24, "depth": 2}, seed=99)).models.first_weights
    torch.save(own, tmp_path / "good.pt")
    loaded = started(scenario, tmp_path / "good.pt").models.first_weights
    assert loaded.keys() == own.keys()
    assert all(torch.equal(loaded[name], own[name]) for name in own)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_malicious_file_is_refused_and_nothing_of_it_runs(scenario: Build, tmp_path: Path, legacy: bool) -> None:
    trace, path = tmp_path / "trace", tmp_path / "evil.pt"
    if legacy:
        path.write_bytes(pickle.dumps(Malicious(trace)))
    else:
        torch.save({"0.weight": Malicious(trace)}, path)
    with pytest.raises(ScenarioError, match=r"evil.pt is no file of weights, or holds more than tensors") as raised:
        started(scenario, path)
    assert not trace.exists()
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list, expected a state dict of tensors by name"),
        (torch.zeros(2), "holds a Tensor, expected a state dict"),
        (None, "holds a NoneType, expected a state dict"),
        ({"model": {"0.weight": torch.zeros(2)}}, "holds dict at 'model', expected tensors by name"),
        ({"epoch": 3}, "holds int at 'epoch', expected tensors by name"),
        ({3: torch.zeros(2)}, "holds Tensor at '3', expected tensors by name"),
        ({"0.weight": torch.zeros(2)}, "does not fit the model"),
    ],
)
def test_a_file_that_holds_something_else_is_one_sentence(
    scenario: Build, tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ScenarioError, match=message) as raised:
        started(scenario, tmp_path / "odd.pt")
    assert str(raised.value).startswith("model.checkpoint: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\x00", b"weights", b"PK\x03\x04broken"])
@pytest.mark.parametrize("name", ["broken.pt", "broken.npz"])
def test_a_broken_file_is_one_sentence(scenario: Build, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScenarioError, match=rf"model.checkpoint: .*{name}") as raised:
        started(scenario, tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing(scenario: Build, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"model.checkpoint: no file .*none.pt"):
        started(scenario, tmp_path / "none.pt")
