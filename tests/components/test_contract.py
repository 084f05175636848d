"""What every component promises. Driven by the registry: a new file is covered without a change here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.core import registry
from fedsim.core.hooks import KINDS_OF_COMPONENTS, HookContext, LossTerm, ModelComponent, Objective, VisualTokenReducer
from fedsim.core.types import Batch, InputSpec
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

TRAIN_ENCODERS = {"esimcse"}
COMPONENTS = registry.methods("component")
OF_HOOK = {
    kind.hook: tuple(own for own in KINDS_OF_COMPONENTS if own.hook == kind.hook) for kind in KINDS_OF_COMPONENTS
}


def here(seed: int = 0) -> HookContext:
    return HookContext(1, 0, 0, torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 3))


def of_text(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A small model of text and its inputs, for components that work on nothing else: a tagger, or an encoder."""
    family, classes = ("tiny-encoder", 1) if name in TRAIN_ENCODERS else ("tiny-llama", 3)
    method = registry.get("model", family)
    spec = InputSpec((5,), classes, (), (), vocabulary=7)
    return method.make(method.config.model_validate({"width": 16, "hidden": 16}), spec), torch.randint(7, (2, 5))


def is_of_text(name: str) -> bool:
    return make(name).modalities == {"text"}


def of_next_tokens(name: str) -> tuple[nn.Module, Batch]:
    """A small language model as the component prepares it, and a batch, for what is added to a loss of text."""
    method = registry.get("model", "tiny-llama")
    spec = InputSpec((5,), 7, (), (), vocabulary=7)
    model = method.make(method.config.model_validate({"width": 16, "hidden": 16}), spec)
    own = make(name)
    prepared = own.prepare(model, torch.Generator().manual_seed(0)) if isinstance(own, ModelComponent) else model
    return prepared, Batch(torch.randint(7, (8, 5)), torch.randint(7, (8, 5)))


def make(name: str) -> Any:
    """The component with its defaults; a setting without one takes its first example."""
    fields = COMPONENTS[name].config.model_fields
    needed = {key: field.examples[0] for key, field in fields.items() if field.is_required() and field.examples}
    return COMPONENTS[name].make(COMPONENTS[name].config.model_validate(needed))


def of_class(kind: type) -> list[str]:
    return [name for name in COMPONENTS if isinstance(make(name), kind)]


@pytest.mark.parametrize("name", COMPONENTS)
def test_it_is_what_its_hook_says_and_lies_in_its_folder(name: str) -> None:
    method = COMPONENTS[name]
    assert method.hook is not None
    assert isinstance(make(name), OF_HOOK[method.hook])
    if method.module.startswith("fedsim."):
        assert method.module.split(".")[2] == method.hook


@pytest.mark.parametrize("name", [n for n in of_class(ModelComponent) if not isinstance(make(n), VisualTokenReducer)])
def test_a_prepared_model_trains_and_its_weights_travel(name: str) -> None:
    is_for_text = is_of_text(name)
    plain, x = of_text(name) if is_for_text else (network(), torch.rand(2, 3, 2, 2))
    model = make(name).prepare(plain, torch.Generator().manual_seed(0))
    model(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    twin = make(name).prepare(of_text(name)[0] if is_for_text else network(), torch.Generator().manual_seed(1))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), twin.eval()(x))


@pytest.mark.parametrize("name", [n for n, m in COMPONENTS.items() if m.hook == "augment"])
def test_an_augmentation_keeps_shapes_and_depends_on_its_generator_alone(
    name: str, scenario: Callable[..., Scenario]
) -> None:
    batch = Batch(torch.rand(4, 3, 8, 8), torch.arange(4))
    before = batch.inputs.clone()
    federation = worlds.build(scenario(federation={"batch_size": 4})).facts.federation
    first, second = (make(name).augment(batch, replace(here(), federation=federation)) for _ in range(2))
    assert first.inputs.shape == batch.inputs.shape
    assert torch.equal(batch.inputs, before)
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.labels, second.labels)


@pytest.mark.parametrize("name", [n for n in of_class(LossTerm) if not isinstance(make(n), Objective)])
def test_a_loss_term_is_a_finite_scalar_that_changes_neither_weights_nor_global_randomness(name: str) -> None:
    model, batch = (
        of_next_tokens(name) if is_of_text(name) else (network(), Batch(torch.rand(2, 3, 2, 2), torch.arange(2)))
    )
    received = {key: t.detach().clone() + 0.1 for key, t in model.state_dict().items()}
    before, state = {key: t.clone() for key, t in model.state_dict().items()}, torch.random.get_rng_state()
    place = HookContext(1, 0, 0, torch.Generator().manual_seed(0), received)
    outputs = model.eval()(batch.inputs)
    term = make(name).loss(model, batch, outputs, place)
    assert term.shape == ()
    assert torch.isfinite(term)
    gradients = torch.autograd.grad(term, list(model.parameters()), allow_unused=True)
    assert any(g is not None and bool(g.any()) for g in gradients)
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
