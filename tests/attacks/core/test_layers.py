import gc
import weakref

import torch
from torch import nn

from attacks.core.layers import first_linear, layer_behind, layers_on_pixels, once_a_model, run
from fedsim.core.types import Observation
from tests.attacks.solving import toy


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 6)
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def test_findings_are_remembered_as_long_as_the_model_lives():
    calls: list[str] = []

    @once_a_model
    def find(observation: Observation) -> str:
        calls.append(type(observation.model).__name__)
        return calls[-1]

    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 2, 2), 1)
    assert find(observation) == find(observation) == "Sequential"
    assert len(calls) == 1
    layers_on_pixels(observation)
    alive = weakref.ref(observation.model)
    del observation
    gc.collect()
    assert alive() is None
    find(toy(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 2, 2), 1)[0])
    assert len(calls) == 2


def test_a_forward_pass_leaves_buffers_as_they_are():
    observation, _ = toy(Normalised(), (3, 2, 2), 5)
    before = {name: tensor.clone() for name, tensor in observation.model.state_dict().items()}
    outputs = run(observation.model, torch.randn(5, 3, 2, 2, dtype=torch.float64))
    assert outputs.shape == (5, 4)
    assert first_linear(observation) is None
    assert all(torch.equal(before[name], tensor) for name, tensor in observation.model.state_dict().items())


def test_the_layer_behind_sees_the_activation_alone():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.GELU(), nn.Dropout(0.5), nn.Linear(6, 6), nn.Linear(6, 4))
    observation, _ = toy(model, (3, 2, 2), 2)
    behind = layer_behind(observation, "1")
    assert behind.name == "4"
    outputs = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    seen = behind.inputs(outputs)
    torch.testing.assert_close(seen, nn.functional.gelu(outputs))
    [slope] = torch.autograd.grad(seen.sum(), outputs)
    assert slope.shape == outputs.shape
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
