"""Chains of layers: matrices and activations against autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.closed_form._sequential_network import chain_of
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from tests.attacks.solving import sending, toy


class Functional(nn.Module):
    """A chain that flattens between its modules, which is no change, or adds something, which is one."""

    def __init__(self, extra: float = 0.0) -> None:
        super().__init__()
        self.extra = extra
        self.convolution = nn.Conv2d(2, 3, 3, padding=1)
        self.activation = nn.LeakyReLU(0.3)
        self.head = nn.Linear(48, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.activation(self.convolution(x)).flatten(1)) + self.extra * x.mean()


def conv_net(*middle: nn.Module, width: int = 48) -> nn.Module:
    with seeding.isolate_randomness(0):
        return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), *middle, nn.Flatten(), nn.Linear(width, 4))


@pytest.mark.paper_step("r-gap", "convolutions as sparse linear equations")
@settings(max_examples=15, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
)
def test_matrices_of_a_convolution_agree_with_autograd(channels, kernel, stride, padding, dilation, bias):
    with seeding.isolate_randomness(1):
        first = nn.Conv2d(*channels, kernel, stride, padding, dilation, bias=bias)
        entries = first(torch.zeros(1, channels[0], 6, 6)).numel()
        model = nn.Sequential(first, nn.Flatten(), nn.Linear(entries, 4))
    observation, _ = toy(model, (channels[0], 6, 6), 1)
    layer = chain_of(observation)[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, channels[0], 6, 6), generator=generator, dtype=torch.float64)
    k = torch.randn(entries, generator=generator, dtype=torch.float64)
    output = first(x).flatten()
    offset = layer.apply(torch.zeros(layer.unknowns, dtype=torch.float64))
    torch.testing.assert_close(layer.apply(x.flatten()), output)
    torch.testing.assert_close(layer.weight_rows() @ x.flatten() + offset, output)
    torch.testing.assert_close(layer.transpose(k), layer.weight_rows().T @ k)
    gradient = torch.autograd.grad(output @ k, first.weight)[0]
    torch.testing.assert_close(layer.gradient_rows(k) @ x.flatten(), gradient.flatten())


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.Sigmoid(), nn.Tanh(), nn.ReLU()])
def test_activations_agree_with_autograd(activation):
    layer = chain_of(toy(conv_net(activation), (2, 4, 4), 1)[0])[0]
    z = torch.linspace(-3, 3, 50, dtype=torch.float64, requires_grad=True)
    output = activation(z)
    slope = torch.autograd.grad(output.sum(), z)[0]
    torch.testing.assert_close(layer.activation.function(z), output)
    torch.testing.assert_close(layer.activation.slope(output), slope)
    shown = slope != 0
    torch.testing.assert_close(layer.activation.inverse(output)[shown], z[shown])
    assert layer.activation.is_invertible == bool(shown.all())


def test_layers_carry_their_activation_and_dropout():
    model = conv_net(nn.Tanh(), nn.Dropout(0.25), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.5))
    layers = chain_of(toy(model, (2, 4, 4), 1)[0])
    assert [layer.name for layer in layers] == ["0", "3", "7"]
    assert [layer.drop and layer.drop.rate for layer in layers] == [None, 0.25, 0.5]
    assert [layer.drop and layer.drop.mask for layer in layers] == [None, (1, 3, 4, 4), (1, 3, 1, 1)]
    assert [layer.activation.is_invertible for layer in layers] == [True, False, True]


def test_a_module_of_ones_own_may_be_a_chain():
    assert [layer.name for layer in chain_of(toy(Functional(), (2, 4, 4), 1)[0])] == ["convolution", "head"]


def test_refuses_what_is_no_chain():
    shape = (2, 4, 4)
    shared = nn.Linear(4, 4)
    hidden = toy(conv_net(nn.Tanh()), shape, 1)[0]
    tensors = {name: t for name, t in hidden.update.tensors.items() if name != "0.weight"}
    cases = {
        "another output": toy(Functional(extra=1.0), shape, 1)[0],
        r"'1' \(GELU\)": toy(conv_net(nn.GELU()), shape, 1)[0],
        r"'1' \(MaxPool2d\)": toy(conv_net(nn.MaxPool2d(2), width=12), shape, 1)[0],
        r"'1' \(BatchNorm2d\)": toy(conv_net(nn.BatchNorm2d(3)), shape, 1)[0],
        "does not follow a layer": toy(conv_net(nn.Dropout(0.5), nn.Tanh()), shape, 1)[0],
        "already dropped out": toy(conv_net(nn.Dropout(0.5), nn.Dropout(0.5)), shape, 1)[0],
        "with groups": toy(nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(32, 4)), shape, 1)[0],
        "is called twice": toy(nn.Sequential(nn.Linear(3, 4), shared, nn.Tanh(), shared), (3,), 1)[0],
        "class scores": toy(nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.LeakyReLU()), shape, 1)[0],
        "hidden or the layer is frozen": sending(hidden, tensors, hidden_parameters=frozenset({"0.weight"})),
    }
    for reason, observation in cases.items():
        with pytest.raises(NotApplicable, match=reason):
            chain_of(observation)
