"""What every attack on attributes promises. Driven by the registry: a new file is covered without a change here."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.questions.attributes.hooks import AttributeAttack

ATTACKS = registry.methods("attack", AttributeAttack)


def made(name: str) -> AttributeAttack[Any]:
    return ATTACKS[name].make(ATTACKS[name].config())


def example(value: int, number: int, model: nn.Module) -> dict[str, Tensor]:
    """The gradient of a classifier on one example of two classes, whose class is the attribute."""
    source = torch.Generator().manual_seed(number)
    inputs = torch.randn(1, 8, generator=source)
    loss = nn.functional.cross_entropy(model(inputs), torch.tensor([value]))
    names = dict(model.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))


def network() -> nn.Module:
    layers = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))
    with torch.no_grad():
        for number, parameter in enumerate(layers.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return layers


def answered(attack: AttributeAttack[Any], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    model = network()
    values = torch.arange(120) % 2
    kept = torch.stack(
        [
            attack.describe(example(value, number, model), torch.Generator().manual_seed(5))
            for number, value in enumerate(values.tolist())
        ]
    )
    return attack(kept[:60], values[:60], kept[60:], torch.Generator().manual_seed(seed)), values[60:]


@pytest.mark.parametrize("name", ATTACKS)
def test_it_reads_the_class_of_an_example_which_its_gradient_shows(name: str) -> None:
    found, truth = answered(made(name))
    assert float((found.argmax(1) == truth).double().mean()) > 0.9
    assert torch.allclose(found.sum(1), torch.ones(len(found)), atol=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize("name", ATTACKS)
def test_it_gives_the_same_bits_again_and_leaves_change_and_model_alone(name: str) -> None:
    model = network()
    change = example(1, 3, model)
    before = {own: tensor.clone() for own, tensor in {**change, **model.state_dict()}.items()}
    first, second = (made(name).describe(change, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dim() == 1
    assert all(torch.equal(before[own], tensor) for own, tensor in {**change, **model.state_dict()}.items())
    one, two = answered(made(name))[0], answered(made(name))[0]
    assert torch.equal(one, two)
