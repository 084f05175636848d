"""A training that is killed leaves no folder behind, and goes on to the same weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedsim.bench import denoisers, descent, grids, pruning, training
from fedsim.bench.denoisers import DenoiserRecipe
from fedsim.bench.descent import OnStep, TrainingStep, ignore_step, steps_left, train_once
from fedsim.bench.training import Recipe
from fedsim.core.errors import FedsimError

LISTS = Recipe("copies", "list-operations", {"operations": ("copy",)}, 8, 4, model={"width": 16, "blocks": 1})
DIGITS = DenoiserRecipe("digits", "digits", {"train": 40, "test": 20}, 8, 8, model={"width": 8, "blocks": 1})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(training, "RECIPES", {"tiny": LISTS})
    monkeypatch.setattr(denoisers, "RECIPES", {"tiny": DIGITS})
    monkeypatch.setattr(pruning, "RECIPES", {"rcp-37": pruning.PruningRecipe(0.5, steps=8)})
    monkeypatch.setattr(pruning, "BATCH", 2)
    monkeypatch.setattr(pruning, "_IMAGES", 4)
    monkeypatch.setattr(grids, "load_trained_model", lambda _on_step: grids.fresh())
    monkeypatch.setattr(descent, "_EVERY", 3)
    return tmp_path / "cache"


def interrupted_at(number: int) -> OnStep:
    def on_step(step: TrainingStep) -> None:
        if step.number == number:
            raise KeyboardInterrupt

    return on_step


def trained_weights(kind: str, on_step: OnStep) -> dict[str, Tensor]:
    """Train a small model, or read it, and return its weights."""
    match kind:
        case "texts":
            return training.load_trained_model("tiny", on_step).model.state_dict()
        case "images":
            return denoisers.load_trained_denoiser("tiny", on_step).model.state_dict()
        case _:
            return pruning.load_trained_model("rcp-37", on_step).reducers[0].state_dict()


@pytest.mark.parametrize(
    "kind", ["texts", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("images", "parts of rcp"))]
)
def test_an_interrupted_training_goes_on_to_the_same_weights(
    kind: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained_weights(kind, interrupted_at(5))
    assert [path.suffix for path in cache.iterdir()] == [".state"], "a file to go on from, and no folder"
    steps: list[int] = []
    (state,) = cache.iterdir()
    state.with_suffix(".1234").write_bytes(b"half of a state")  # of a process that was killed as it wrote one
    again = trained_weights(kind, lambda step: steps.append(step.number))
    assert steps == [4, 5, 6, 7, 8]
    assert all(path.is_dir() for path in cache.iterdir()), "no state stays behind the training"
    (weights,) = cache.glob("*/weights.pt")
    content = weights.read_bytes()
    weights.write_bytes(content.replace(content[-400:-360], content[-400:-360][::-1]))
    with pytest.raises(FedsimError, match="weights.pt does not have the checksum"):
        trained_weights(kind, ignore_step)
    monkeypatch.setenv("FEDSIM_CACHE", str(cache.parent / "other"))
    whole = trained_weights(kind, ignore_step)
    assert all(torch.equal(weight, again[name]) for name, weight in whole.items())


@pytest.mark.slow
def test_a_training_that_is_killed_leaves_no_folder(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from fedsim.bench.descent import train_once\n"
        "def train(states):\n"
        "    Path(f'{states}.stage.state').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "train_once('thing', 2, train, lambda folder: None)\n"
    )
    environment = {"FEDSIM_CACHE": str(tmp_path), "PATH": ""}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == -9
    assert "this can take about 2 min of a core" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thing.stage.state"]


def test_a_file_that_holds_no_state_of_the_training_is_named(tmp_path: Path) -> None:
    def go_on(layer: nn.Module) -> list[int]:
        return list(steps_left(tmp_path / "thing", "stage", 2, torch.Generator(), layer=layer))

    assert go_on(nn.Linear(2, 1)) == [0, 1]
    assert go_on(nn.Linear(2, 1)) == []
    for layer in (nn.Linear(3, 1), nn.Linear(2, 1, bias=False)):
        with pytest.raises(FedsimError, match=r"thing\.stage\.state is no state of this training.*Delete it"):
            go_on(layer)
    (tmp_path / "thing.stage.state").write_bytes(b"cut off")
    with pytest.raises(FedsimError, match="Delete it, and the training begins anew"):
        go_on(nn.Linear(2, 1))


def test_a_state_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    states = tmp_path / "missing" / "thing"
    with pytest.raises(FedsimError, match=r"cannot write to .*thing\.stage\.state: No such file or directory"):
        list(steps_left(states, "stage", 1, torch.Generator(), layer=nn.Linear(2, 1)))


def test_a_cache_that_cannot_be_written_is_named_before_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(FedsimError, match=r"cannot be written: .* Set FEDSIM_CACHE\."):
        train_once("thing", 2, lambda _states: pytest.fail("it began"), lambda _folder: None)
