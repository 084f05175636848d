"""Small models are trained once, kept, and the same for a recipe."""

from pathlib import Path

import pytest
import torch

from fedsim.bench import training
from fedsim.bench.training import Recipe, load_trained_model
from fedsim.core.errors import FedsimError

TINY = Recipe(
    "copies",
    "list-operations",
    {"operations": ("copy",), "train": 4, "test": 4},
    3,
    8,
    model={"width": 16, "blocks": 1},
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    monkeypatch.setattr(training, "RECIPES", {"tiny": TINY})
    return tmp_path


def test_a_model_is_trained_once_and_read_back(cache: Path) -> None:
    steps: list[int] = []
    first = load_trained_model("tiny", lambda step: steps.append(step.number))
    second = load_trained_model("tiny", lambda step: steps.append(step.number))
    assert steps == [1, 2, 3]
    assert [folder.name.startswith("tiny-llada-tiny-") for folder in cache.iterdir()] == [True]
    assert all(
        torch.equal(tensor, second.model.state_dict()[name]) for name, tensor in first.model.state_dict().items()
    )
    assert not first.model.training


@pytest.mark.slow
def test_training_lowers_the_loss(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: dict[int, float] = {}
    longer = Recipe(TINY.holds, TINY.data, TINY.settings, 201, 16, model=TINY.model)
    monkeypatch.setattr(training, "RECIPES", {"tiny": longer})
    load_trained_model("tiny", lambda step: losses.update({step.number: step.loss}))
    assert list(losses) == list(range(1, 202))
    assert losses[201] < losses[1] - 1  # nats; a blind model pays 3.9 a token


def test_an_unknown_model_is_answered_with_the_nearest(cache: Path) -> None:
    with pytest.raises(FedsimError, match="unknown small model 'tinny'. Did you mean 'tiny'?"):
        load_trained_model("tinny")
