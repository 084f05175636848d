"""Gradients of single examples against a loop, and which rule computes them; dp-sgd's tests clip and sum them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from fedsim.core.nets.losses import compute_example_losses
from fedsim.core.types import Batch
from fedsim.privacy.per_example import Mode, cheapest, example_gradients, sum_clipped


class Twice(nn.Module):
    """Calls one layer twice, another once, and a third not at all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own, self.head, self.idle = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.own(self.own(x).tanh()).tanh())


def batch() -> Batch:
    return Batch(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), torch.arange(4) % 3)


def losses_of(model: nn.Module, examples: Batch) -> Callable[[], Tensor]:
    return lambda: compute_example_losses(model(examples.inputs), examples.labels)


def test_gradients_of_single_examples_are_those_of_a_loop_and_zero_where_a_layer_was_not_called() -> None:
    model, examples = Twice().double(), Batch(batch().inputs.double(), batch().labels)
    parameters = dict(model.named_parameters())
    each, found = example_gradients(model, parameters, losses_of(model, examples))
    alone = losses_of(model, examples)()
    assert torch.allclose(each, alone)
    assert not each.requires_grad
    for place, loss in enumerate(alone):
        expected = torch.autograd.grad(
            loss, list(parameters.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for name, own in zip(parameters, expected, strict=True):
            assert torch.allclose(found[name][place], own, rtol=1e-9, atol=1e-12)  # rounding of double precision
    assert found["idle.weight"].shape == (4, 2, 2)
    assert not found["idle.weight"].any()


@pytest.mark.parametrize(("mode", "is_called"), [("hooks", True), ("functorch", False)])
def test_the_mode_decides_whether_the_rule_of_opacus_is_asked(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, is_called: bool
) -> None:
    rule, asked = GradSampleHooks.GRAD_SAMPLERS[nn.Linear], []

    def noted(layer: nn.Linear, *rest: Any) -> dict[nn.Parameter, Tensor]:
        asked.append(layer)
        return rule(layer, *rest)

    monkeypatch.setitem(GradSampleHooks.GRAD_SAMPLERS, nn.Linear, noted)
    model = nn.Linear(6, 3)
    sum_clipped(model, dict(model.named_parameters()), losses_of(model, batch()), 1.0, mode)
    assert asked == ([model] if is_called else [])


def test_a_matrix_outside_of_dense_layers_and_embeddings_is_stored_for_each_example() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Parameter(torch.eye(6))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.turn

    assert cheapest(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))) == "ghost"
    assert cheapest(nn.Sequential(nn.Linear(6, 6), Turned())) == "hooks"
