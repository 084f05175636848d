"""The table of realism: a cell that must be recovered, rows that are kept, groups, and norms in three modes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks import realism
from benchmarks._frontier_models import Norm, resnet18
from benchmarks._realism_cells import CELLS, Cell, Client, Network, cells_of
from fedsim.core.types import InputSpec
from fedsim.scenario import parse

_CONTROL = Network("MLP", "control", {"name": "digits"}, {"name": "mlp", "width": 16, "depth": 1}, 64, 2, 60.0)
_SPEC = InputSpec((3, 8, 8), 10, (0.5,) * 3, (0.25,) * 3)


_measure = partial(realism.measured, victims=1)


def _row(**own: Any) -> dict[str, Any]:
    known = {"group": "control", "weights": "fresh", "batch": 1, "updates": 3, "opened": 3, "exact updates": 2}
    return {**known, "state": "recovered", **own}


def test_a_trained_control_is_recovered_exactly_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    cell, file = Cell(_CONTROL, Client("trained"), is_long=False), tmp_path / "rows.jsonl"
    (row,) = realism.rows_of([cell], _measure, "attack", file)
    assert (row["state"], row["exact"], row["images"], row["by"]) == ("recovered", 1, 1, ["closed-form-linear"])
    assert row["ideal attacker"].endswith(", 1 of 1")
    assert [json.loads(line) for line in file.read_text().splitlines()] == [row]
    file.write_text(json.dumps({**row, "state": "from the file"}) + "\n")
    assert [own["state"] for own in realism.rows_of([cell], _measure, "attack", file)] == ["from the file"]


def test_the_ideal_attacker_is_not_asked_of_a_large_model() -> None:
    cell = Cell(_CONTROL._replace(is_large=True), Client(), is_long=False)
    row = _measure(cell)
    assert (row["state"], row["ideal attacker"]) == ("recovered", "not asked of so large a model")


def test_a_ceiling_is_exact() -> None:
    row = realism.ceiling(Cell(_CONTROL, Client(), is_long=False))
    assert row["ideal attacker"].endswith(", 1 of 1")
    assert row["rank"] == "64 of 64"


def test_groups_count_updates_and_states() -> None:
    rows = [_row(), _row(opened=0, state="undecided", **{"exact updates": 0}), _row(weights="trained")]
    fresh, trained = realism.groups(rows)
    assert (fresh["cells"], fresh["updates"], fresh["an image identified"]) == (2, 6, "3 of 6 [19, 81]%")
    assert (fresh["recovered"], fresh["withstood"], fresh["undecided"]) == (1, 0, 1)
    assert (trained["every image exact"], trained["recovered"]) == ("2 of 3 [21, 94]%", 1)


def test_every_cell_has_its_own_words_and_a_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CIFAR10", str(tmp_path))
    assert len({cell.words for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        federation = cell.tables()["federation"]
        assert (federation.get("algorithm") == "fedavg") == cell.client.sends.startswith("FedAvg")


def test_weights_in_a_file_are_those_of_the_scenario(tmp_path: Path) -> None:
    for cell in cells_of(tmp_path / "vit.pth"):
        assert parse(cell.tables(), "benchmark").model.checkpoint == tmp_path / "vit.pth"
        assert cell.network.is_judged
        assert cell.steps == 0


def test_inference_mode_is_batch_norm_that_does_not_train() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, *_SPEC.shape)
    learnt = resnet18(_SPEC, width=2, norm="batch")
    for _ in range(3):
        learnt(torch.randn(8, *_SPEC.shape))
    fixed = resnet18(_SPEC, width=2, norm="inference")
    fixed.load_state_dict(learnt.state_dict())
    assert torch.allclose(fixed.train()(images), learnt.eval()(images), atol=1e-6)


@pytest.mark.parametrize(("norm", "mixes"), [("group", False), ("batch", True), ("inference", False)])
def test_only_batch_norm_in_training_mode_mixes_examples(norm: Norm, mixes: bool) -> None:
    torch.manual_seed(0)
    model, images = resnet18(_SPEC, width=2, norm=norm), torch.randn(4, *_SPEC.shape)
    assert torch.allclose(model(images)[:2], model(images[:2]), atol=1e-5) is not mixes


@pytest.mark.parametrize(("norm", "shows"), [("batch", False), ("inference", True)])
def test_contrast_of_one_image_does_not_pass_batch_norm(norm: Norm, shows: bool) -> None:
    """The one direction that a gradient does not show: behind batch normalisation it is that of the image."""
    torch.manual_seed(0)
    model, image = resnet18(_SPEC, width=8, norm=norm).double(), torch.randn(1, 3, 16, 16).double()

    def gradient(contrast: float) -> torch.Tensor:
        loss = cross_entropy(model(contrast * image), torch.tensor([3]))
        return torch.autograd.grad(loss, next(model.parameters()))[0]

    change = float(torch.norm(gradient(1.5) - gradient(1.0)) / torch.norm(gradient(1.0)))
    assert change > 0.1 if shows else change < 0.01  # what is left is the epsilon of the normalisation


@pytest.mark.parametrize(
    ("asked", "told"), [("no such network", "no cell's words contain"), ("small ViT", "set FEDSIM_CIFAR10 to")]
)
def test_a_mistake_is_told_in_a_line(
    asked: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEDSIM_CIFAR10", raising=False)
    monkeypatch.setattr("sys.argv", ["realism", "--only", asked])
    with pytest.raises(SystemExit, match="2"):
        realism.main()
    assert told in capsys.readouterr().err


def test_kept_rows_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = next(cell for cell in CELLS if cell.words.startswith("MLP") and cell.client == Client())
    row = {**realism.measured(Cell(_CONTROL, Client(), is_long=False), 1), "network": cell.network.words}
    kept = {**row, "key": f"{cell.words}: 3 updates, own seconds"}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(kept) + "\n")
    monkeypatch.setattr("sys.argv", ["realism", "--only", cell.words, "--rows", str(file)])
    realism.main()
    printed = capsys.readouterr().out
    assert f"| {cell.network.words} | fresh" in printed
    assert "| control, fresh, B = 1 | 1 | 1 | 1 of 1 [21, 100]% |" in printed
