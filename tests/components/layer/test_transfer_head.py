"""A new head behind what is frozen: its layers, what is trained and sent, and models without a place for it."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedsim.components.layer.transfer_head import TransferHead, TransferHeadConfig
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds


def prepared(seed: int = 0, **settings: float) -> nn.Module:
    with seeding.isolate_randomness(1):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    config = TransferHeadConfig.model_validate(settings)
    return TransferHead(config).prepare(model, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_head_computes_what_its_equation_says(layers: int) -> None:
    model, inputs = prepared(layers=layers, width=5), torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    state = model.state_dict()
    values = (inputs @ state["0.weight"].T + state["0.bias"]).tanh()
    for place in range(0, 3 * layers, 3):
        values = values @ state[f"2.{place}.weight"].T + state[f"2.{place}.bias"]
        values = values.relu() if place < 3 * (layers - 1) else values
    torch.testing.assert_close(model(inputs), values)


def test_the_head_alone_is_trained_and_drawn_from_the_generator() -> None:
    model = prepared(width=5, dropout=0.5)
    assert {name for name, own in model.named_parameters() if own.requires_grad} == {
        "2.0.weight",
        "2.0.bias",
        "2.3.weight",
        "2.3.bias",
    }
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.5]
    assert torch.equal(model.state_dict()["2.0.weight"], prepared(width=5).state_dict()["2.0.weight"])
    assert not torch.equal(model.state_dict()["2.0.weight"], prepared(1, width=5).state_dict()["2.0.weight"])


def test_a_model_that_does_not_end_with_a_linear_layer_is_refused() -> None:
    for model in (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), nn.Linear(3, 4)):
        with pytest.raises(NotApplicable, match="does not end with a linear layer"):
            TransferHead(TransferHeadConfig()).prepare(model, torch.Generator())


def test_what_is_frozen_does_not_travel(scenario: Callable[..., Scenario]) -> None:
    world = worlds.build(scenario(components=[{"name": "transfer-head", "width": 5}]))
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    assert len(update.tensors) == 4
    assert all(".0." in name or ".3." in name for name in update.tensors)
