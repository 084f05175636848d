"""The table of realism: a cell that must be recovered, its ceiling, and norms in three modes."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks import realism
from benchmarks._frontier_models import Norm, resnet18
from benchmarks._rows import Row
from benchmarks.realism import CELLS, Cell, Network
from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec
from fedsim.scenario import parse

_CONTROL = Network("MLP", {"name": "digits"}, {"name": "mlp", "width": 16, "depth": 1}, 64, 2)
_SPEC = InputSpec((3, 8, 8), 10, (0.5,) * 3, (0.25,) * 3)


def _rows(cell: Cell) -> dict[str, Row]:
    return {row.name: row for row in realism.rows_of(cell, 1, 60.0)}


def test_a_trained_control_is_recovered_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    rows = _rows(Cell(_CONTROL))
    opened, exact = rows["updates with an image identified"], rows["images exact"]
    assert (opened.value, exact.value, rows["accuracy"].unit) == (1.0, 1.0, "share")
    assert re.fullmatch(r"recovered; ideal attacker: .*, 1 of 1; by closed-form-linear", opened.note)


def test_a_ceiling_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    (row,) = realism.ceiling(Cell(_CONTROL))
    assert row.value > 60
    assert row.note.endswith(", 1 of 1, rank 64 of 64")


def test_every_cell_has_its_own_words_and_a_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CIFAR10", str(tmp_path))
    assert len({cell.words for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        assert parse(cell.tables(), "benchmark").federation.batch_size == cell.client.batch_size


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


def test_a_missing_copy_of_cifar10_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDSIM_CIFAR10", raising=False)
    cell = next(cell for cell in CELLS if cell.words.startswith("small ViT"))
    with pytest.raises(FedsimError, match="set FEDSIM_CIFAR10 to"):
        cell.tables()
