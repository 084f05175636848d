"""What layers read and return, collected without a trace in the model."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.nets.layer_calls import inputs_in_order, layer_inputs, layer_outputs, read_by


class Twice(nn.Module):
    """Calls one layer twice and another one in between."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.other, self.same = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.called: list[str] = []
        self.same.register_forward_hook(lambda *_: self.called.append("same"))
        self.other.register_forward_hook(lambda *_: self.called.append("other"))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.same(torch.relu(self.other(self.same(inputs))))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_inputs_and_outputs_are_those_of_every_call_in_order() -> None:
    model, inputs = Twice(), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    before = hooks(model)
    with layer_inputs(model, ["same", "other"]) as read, layer_outputs(model, ["same"]) as returned:
        outputs = model(inputs)
    assert [name for name, _ in read] == ["same", "other", "same"]
    assert torch.equal(read[0][1], inputs)
    assert torch.equal(read[1][1], model.same(inputs))
    assert torch.equal(returned[-1][1], outputs)
    assert hooks(model) == before


def test_inputs_keep_the_graph_where_they_are_asked_for_by_name_only() -> None:
    model, inputs = Twice(), torch.ones(1, 2, requires_grad=True)
    with layer_inputs(model, ["other"]) as read, inputs_in_order(model, (nn.Linear,)) as detached:
        model(inputs)
    (gradient,) = torch.autograd.grad(read[0][1].sum(), inputs)
    assert bool(gradient.any())
    assert [name for name, _ in detached] == ["same", "other", "same"]
    assert not any(own.requires_grad for _, own in detached)


def test_a_model_stops_behind_the_last_layer_that_was_asked_for() -> None:
    model, inputs = Twice(), torch.ones(1, 2)
    before = hooks(model)
    one, other = read_by(model, ["same", "other"], inputs, nullcontext())
    assert model.called == ["same"]
    assert torch.equal(one, inputs)
    assert torch.equal(other, model.same(inputs))
    assert hooks(model) == before


def test_an_error_of_the_model_leaves_no_hook() -> None:
    model = Twice()
    before = hooks(model)
    with pytest.raises(RuntimeError), layer_inputs(model, ["other"]), layer_outputs(model, ["other"]):
        model(torch.ones(1, 3))
    with pytest.raises(RuntimeError):
        read_by(model, ["other"], torch.ones(1, 3), nullcontext())
    assert hooks(model) == before
