"""The MLP against its layers one by one, and what it does not read."""

from typing import Any

import pytest
import torch
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.masks import dropout_sites
from fedsim.core.types import InputSpec
from fedsim.models.mlp import MlpConfig, mlp
from tests.models.sizes import images, parameters, spec


@pytest.mark.parametrize(
    ("activation", "function"),
    [("gelu", torch.nn.functional.gelu), ("relu", torch.relu), ("sigmoid", torch.sigmoid), ("tanh", torch.tanh),
     ("leaky-relu", lambda z: torch.where(z > 0, z, 0.01 * z))],
)  # fmt: skip
@pytest.mark.parametrize("bias", [False, True])
def test_scores_are_those_of_the_layers_by_hand(activation: Any, function: Any, bias: bool) -> None:
    model = mlp(MlpConfig(width=6, depth=2, bias=bias, activation=activation), spec(1, 2, 3, classes=4)).eval()
    layers = [module for module in model if isinstance(module, nn.Linear)]  # type: ignore[union-attr]
    hidden = images(5, 1, 2, 3).flatten(1)
    for layer in layers[:-1]:
        hidden = function(hidden @ layer.weight.T + (layer.bias if bias else 0.0))
    expected = hidden @ layers[-1].weight.T + (layers[-1].bias if bias else 0.0)
    assert torch.allclose(model(images(5, 1, 2, 3)), expected, atol=1e-6)


def test_sizes_and_sites_follow_from_width_and_depth() -> None:
    model = mlp(MlpConfig(width=8, depth=3, dropout=0.5), spec(3, 2, 2))
    assert parameters(model) == 12 * 8 + 2 * 8 * 8 + 8 * 10
    assert [(site.rate, site.shape) for site in dropout_sites(model, (3, 2, 2), 2)] == [(0.5, (2, 8))] * 3


def test_numbers_of_any_shape_are_read_and_tokens_are_not() -> None:
    assert mlp(MlpConfig(width=4, depth=1), InputSpec((7,), 3, (), ()))(torch.ones(2, 7)).shape == (2, 3)
    with pytest.raises(FedsimError, match="'mlp' reads numbers, got tokens"):
        mlp(MlpConfig(), InputSpec((7,), 3, (), (), vocabulary=11))
