"""The clients' model: the same in every process, changed by components, a checkpoint, or a malicious server."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.model_source import ModelSource, allow_second_derivatives

Build = Callable[..., Scenario]
MODEL = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25}


@pytest.fixture
def models(scenario: Build) -> Callable[..., ModelSource]:
    return lambda **tables: worlds.build(scenario(**tables)).models


def test_every_call_makes_the_same_model_and_the_seed_another(models: Callable[..., ModelSource]) -> None:
    own = models()
    before = torch.get_rng_state()
    first, second = own.new(), own.new()
    assert torch.equal(torch.get_rng_state(), before)
    assert first is not second
    assert first.training
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        assert torch.equal(tensor, own.first_weights[name])
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert next(second.parameters()).any()
    assert next(own.new().parameters()).any()
    assert next(iter(own.first_weights.values())).any()
    other = models(seed=4).first_weights
    assert any(not torch.equal(other[name], tensor) for name, tensor in own.first_weights.items())


def test_one_model_holds_whatever_weights_it_is_given(models: Callable[..., ModelSource]) -> None:
    own = models()
    doubled = {name: 2 * tensor for name, tensor in own.first_weights.items()}
    held = own.load_weights(doubled)
    held.eval()
    assert all(torch.equal(tensor, doubled[name]) for name, tensor in held.state_dict().items())
    again = own.load_weights(own.first_weights)
    assert again is held
    assert again.training
    assert all(torch.equal(tensor, own.first_weights[name]) for name, tensor in again.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        own.load_weights({})


def test_dropout_is_found_for_one_example_or_for_two(models: Callable[..., ModelSource]) -> None:
    assert [(site.rate, site.shape[0]) for site in models().sites] == [(0.25, 1)] * 2
    assert {site.shape[0] for site in models(federation={"batch_size": 8}).sites} == {2}
    assert models(model={"dropout": 0.0}).sites == ()


def test_a_module_that_mixes_a_batch_is_named(models: Callable[..., ModelSource]) -> None:
    assert models().mixing_module is None
    source = models()
    normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model_source = ModelSource(source.scenario, source.data, source.stack, source.task, lambda: normed)
    assert model_source.mixing_module == "'1' (BatchNorm1d)"


def test_an_honest_server_changes_nothing_and_a_malicious_one_what_it_says(models: Callable[..., ModelSource]) -> None:
    assert models().crafted_changes.tensors == {}
    relu = {"name": "mlp", "width": 24, "depth": 2, "activation": "relu", "bias": True}
    honest = models(model=relu)
    own = models(model=relu, threat={"server": "malicious"}, attacks=[{"name": "trap-weights"}])
    crafted = own.crafted_changes
    assert crafted.tensors
    assert crafted.added_names == own.first_weights.keys() - honest.first_weights.keys()
    for name, tensor in own.first_weights.items():
        changed = name in crafted.added_names or not torch.equal(tensor, honest.first_weights[name])
        assert changed == (name in crafted.tensors)
        if changed:
            assert torch.equal(crafted.tensors[name], tensor)


def test_a_model_without_a_place_for_the_servers_change_is_one_sentence(models: Callable[..., ModelSource]) -> None:
    smooth = {"name": "mlp", "width": 24, "depth": 2, "activation": "sigmoid"}
    own = models(model=smooth, threat={"server": "malicious"}, attacks=[{"name": "trap-weights"}])
    with pytest.raises(ScenarioError, match="attack 'trap-weights' cannot change this model: "):
        own.new()


LOCKED = """
import threading

from torch import nn

def make(spec):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, spec.classes))
    model.lock = threading.Lock()
    return model
"""


def test_a_model_that_cannot_be_copied_is_made_anew(
    models: Callable[..., ModelSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked_model.py").write_text(LOCKED)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = models(model={"name": "locked_model:make"})
    first, second = source.new(), source.new()
    assert first is not second
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in source.first_weights.items())
    with pytest.raises(TypeError, match="cannot pickle"):
        copy.deepcopy(second)


def test_a_model_of_a_users_own_code_stands_in_for_the_scenarios(models: Callable[..., ModelSource]) -> None:
    source = models()
    model_source = ModelSource(source.scenario, source.data, source.stack, source.task, lambda: nn.Linear(2, 2))
    assert isinstance(model_source.new(), nn.Linear)
    broken = ModelSource(source.scenario, source.data, source.stack, source.task, lambda: 3)  # type: ignore[arg-type,return-value]
    with pytest.raises(FedsimError, match="model 'mlp' returned int, expected nn.Module"):
        broken.new()


def test_values_and_gradients_stay_and_second_derivatives_are_those_of_differences() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.Hardsigmoid()), nn.Linear(5, 3)).double()
    own = allow_second_derivatives(copy.deepcopy(plain))
    inputs = 3 * torch.randn(7, 6, dtype=torch.double)
    assert torch.allclose(own(inputs), plain(inputs), rtol=0, atol=1e-15)  # rounding
    for one, other in zip(
        torch.autograd.grad(own(inputs).square().sum(), list(own.parameters())),
        torch.autograd.grad(plain(inputs).square().sum(), list(plain.parameters())),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-7)  # torch holds 1/6 in single precision

    def pulled(point: torch.Tensor) -> torch.Tensor:
        (weight,) = torch.autograd.grad(own(point).square().sum(), own[0].weight, create_graph=True)
        return weight.square().sum()

    assert torch.autograd.gradcheck(pulled, inputs.requires_grad_())


def test_a_model_that_is_one_hardsigmoid_is_replaced() -> None:
    assert torch.equal(
        allow_second_derivatives(nn.Hardsigmoid())(torch.tensor([-4.0, 0.0, 4.0])), torch.tensor([0.0, 0.5, 1.0])
    )


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
