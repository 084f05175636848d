"""Stage 2 trains every weight, the vision encoder's too, once."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedsim.bench import grids, unfreezing
from fedsim.bench.descent import ignore_step
from fedsim.core.nets import checkpoints


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images with two questions each, and one step."""
    monkeypatch.setattr(unfreezing, "_IMAGES", 2)
    monkeypatch.setattr(unfreezing, "_TURNS", 2)
    monkeypatch.setattr(unfreezing, "PLAN", grids.StagePlan("everything", steps=1, rate=1e-3, decay=0.01, clip=1.0))


def weights(model: torch.nn.Module) -> Mapping[str, Tensor]:
    return {name: own.detach().clone() for name, own in model.named_parameters()}


@pytest.mark.usefixtures("small")
def test_every_weight_that_a_question_reaches_is_trained(tmp_path: Path) -> None:
    model = grids.fresh()
    before = weights(model)
    unfreezing.train(model, tmp_path / "weights", unfreezing.PLAN, ignore_step)
    still = {name for name, weight in weights(model).items() if torch.equal(weight, before[name])}
    # The last encoder block stands behind the layer that is projected.
    assert all(name.startswith(f"encoder.{model.visual.encoder_layers - 1}.") for name in still)
    assert still


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_it_is_trained_once_from_the_trained_model_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    monkeypatch.setattr(grids, "load_trained_model", lambda _on_step: grids.fresh())
    steps: list[int] = []
    first = unfreezing.load_trained_model(lambda step: steps.append(step.number))
    again = unfreezing.load_trained_model(lambda step: steps.append(step.number))
    assert steps == [1]
    assert all(torch.equal(weight, weights(again)[name]) for name, weight in weights(first).items())
    assert sorted(own.name for own in tmp_path.iterdir()) == [unfreezing.NAME]
    assert checkpoints.cache() == tmp_path
