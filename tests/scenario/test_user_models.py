"""Modules of users, and the one sentence that each of them gets before anything is trained."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.cli.typed import Say

HERE = Path(__file__).parent
SOUND = ("plain", "dropping", "normed", "spectral", "lazy_but_called", "partly_frozen")
WRONG = {
    "too_few_scores": "returns shape (2, 3) for 2 examples, expected one tensor of shape (2, 10), a score",
    "a_score_of_the_batch": "returns shape (1, 10) for 2 examples, expected one tensor of shape (2, 10)",
    "three_dimensions": "returns shape (2, 1, 10) for 2 examples, expected one tensor of shape (2, 10)",
    "one_number": "returns shape () for 2 examples",
    "a_tuple": "returns a tuple of 2, expected one tensor of shape (2, 10). Return the scores alone.",
    "a_mapping": "returns dict, expected one tensor of shape (2, 10). Return the scores alone.",
    "a_named_tuple": "returns a tuple of 1, expected one tensor",
    "nothing": "returns None, expected one tensor of shape (2, 10). Return the scores alone.",
    "classes_found": "returns shape (2,) for 2 examples",
    "half_scores": "returns torch.float16, expected torch.float32. Leave casts and autocast out.",
    "detached": "gives no gradient: element 0 of tensors does not require grad",
    "of_inputs_alone": "gives no gradient: its scores do not depend on any trainable parameter.",
    "in_place": "changes its input in place, and with it the client's data. Begin with inputs.clone()",
    "in_place_same_values": "leave inplace=True out of the first layer.",
    "raising": "fails on 2 examples of shape (1, 8, 8): KeyError: 'layer' (own_modules.py, line",
    "exits": "ended the process with exit code 3 (own_modules.py, line",
    "exits_at_once": "ended the process with exit code not today (own_modules.py, line",
    "leaves": "ended the process with exit code 0 (own_modules.py, line",
    "leaves_at_once": "ended the process with exit code 7 (own_modules.py, line",
    "no_forward": "fails on 2 examples of shape (1, 8, 8): NotImplementedError",
    "bfloat": "has 'hidden.weight' of type torch.bfloat16, expected torch.float32. Return model.float().",
    "half": "has 'hidden.weight' of type torch.float16, expected torch.float32. Return model.float().",
    "double": "has 'hidden.weight' of type torch.float64, expected torch.float32. Return model.float().",
    "one_complex": "has 'phase' of type torch.complex64, expected torch.float32.",
    "double_buffer": "has 'seen' of type torch.float64, expected torch.float32.",
    "elsewhere": "has 'hidden.weight' on device 'meta', expected 'cpu'. Return model.cpu().",
    "lazy": "has a lazy layer: '1.weight' has no size yet. Give the layer its size, or call the model once",
    "parallel": "is wrapped in DataParallel, which spreads a batch over devices. Return its .module.",
    "scripted": "is scripted, so nothing inside can be watched. Return the module as it was before torch.jit.",
    "compiled": "is compiled, so nothing inside can be watched. Return the module as it was before torch.compile.",
    "only_buffers": "has nothing to train: it has no parameters, so a client would send nothing. Keep a tensor as",
    "frozen": "has nothing to train: all its parameters are frozen, so a client would send nothing.",
    "empty": "has an empty parameter: 'nothing' has shape (0, 3). Leave it out of the model.",
    "expanded": "with shared memory: 'head.bias' is an expanded tensor. Call .clone() on it.",
    "not_finite": "has first weights that are not finite: 'head.bias'. Initialise it.",
    "overflowing": "returns scores that are not finite with its first weights. Check its scale.",
    "sparse": "has a sparse gradient at 'table.weight'. Leave sparse=True out of the layer.",
    "random_drop": "returns different outputs for the same examples, weights and seed",
    "numpy_noise": "Use torch's global generator, which is seeded",
    "own_generator": "returns different outputs for the same examples, weights and seed",
    "counting": "keep no state between calls except registered buffers.",
    "named_differently": "returns different models on equal calls: 'extra_",
    "weights_of_numpy": (
        "returns different models on equal calls: 'head.weight' differs. Initialise with torch's global"
    ),
    "a_class": "is of type type, expected a torch.nn.Module.",
    "a_number": "is of type int, expected a torch.nn.Module.",
    "wants_more": "failed: TypeError: wants_more() missing 1 required positional argument: 'width'",
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def build(scenario: Callable[..., Scenario], name: str, **federation: Any) -> worlds.World:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about lazy layers and about scripting
        return worlds.build(scenario(model={"name": f"own_modules:{name}"}, federation={"batch_size": 2, **federation}))


@pytest.mark.parametrize("name", WRONG)
def test_a_module_that_cannot_be_used_is_one_sentence(scenario: Callable[..., Scenario], name: str) -> None:
    with pytest.raises(FedsimError) as raised:
        build(scenario, name)
    told = str(raised.value)
    assert told.startswith(f"model 'own_modules:{name}' ")
    assert WRONG[name] in told
    assert "\n" not in told


@pytest.mark.parametrize("name", SOUND)
def test_a_module_that_is_only_unusual_is_trained(scenario: Callable[..., Scenario], name: str) -> None:
    world = build(scenario, name)
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    assert all(bool(tensor.isfinite().all()) for tensor in update.tensors.values())
    assert any(bool(tensor.any()) for tensor in update.tensors.values())


def test_the_check_leaves_no_trace_in_what_is_drawn_later(scenario: Callable[..., Scenario]) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build(scenario, "dropping")
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Say) -> Say:
    """Run a scenario of a module as a user does; return the exit code and what it wrote."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, more: str = "") -> tuple[int, str, str]:
        path = tmp_path / "own.toml"
        path.write_text(
            f'title = "own"\n[data]\nname = "digits"\n[model]\nname = "own_modules:{name}"\n'
            f"[federation]\nclients = 4\nbatch_size = 2\n{more}"
        )
        return command("run", str(path), "--trust", "--out", "results/own")

    return run


def test_a_run_whose_truth_cannot_be_repeated_says_so_beside_the_score(tmp_path: Path, ran: Say) -> None:
    attack = '[[attacks]]\nname = "inverting-gradients"\nmax_iterations = 2\n'
    code, out, _ = ran("late", f'[threat]\nknows = ["labels"]\n{attack}')
    said = " ".join(out.split())
    assert code == 0
    assert "The ground truth of all is uncertain: the replay of the clients gave another update" in said
    assert "(truth" in said  # in the cell of the score, which a narrow terminal breaks
    page = html.unescape((tmp_path / "results" / "own" / "report.html").read_text())
    assert "The ground truth of this score is uncertain: the replay of the clients' round did not match." in page


@pytest.mark.parametrize("name", ["leaves", "exits_at_once", "too_few_scores"])
def test_the_command_says_so_with_exit_code_2_and_leaves_no_folder(name: str, tmp_path: Path, ran: Say) -> None:
    code, _, errors = ran(name)
    assert code == 2
    assert WRONG[name] in errors.replace("\n", " ")
    assert not (tmp_path / "results" / "own").exists()
