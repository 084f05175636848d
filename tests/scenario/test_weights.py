"""`model.checkpoint`: a file of weights is read as weights, whatever else it holds."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

Build = Callable[..., Scenario]
MODEL = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25}


class Deed:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", [".pt", ".pth"])
def test_weights_of_torch_are_the_first_weights(ending: str, scenario: Build, tmp_path: Path) -> None:
    path = tmp_path / f"own{ending}"
    own = {name: torch.randn_like(t) for name, t in worlds.build(scenario(model=MODEL)).models.first_weights.items()}
    torch.save(own, path)
    world = worlds.build(scenario(model={**MODEL, "checkpoint": str(path)}))
    assert world.models.first_weights.keys() == own.keys()
    assert all(torch.equal(world.models.first_weights[name], own[name]) for name in own)


@pytest.mark.parametrize("how", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_file_that_is_a_program_is_refused_and_not_run(how: Any, scenario: Build, tmp_path: Path) -> None:
    path, written = tmp_path / "evil.pt", tmp_path / "done"
    how({"1.weight": Deed(written)}, path)
    with pytest.raises(ScenarioError, match=r"model.checkpoint: .*evil.pt is no file of weights"):
        _ = worlds.build(scenario(model={**MODEL, "checkpoint": str(path)})).models.first_weights
    assert not written.exists()
