"""Tokens of features against look-ups in a table of vectors."""

import math

import torch

from fedsim.core import seeding
from fedsim.core.nets.feature_tokens import FeatureTokens
from fedsim.core.types import InputSpec

SHARE = math.sqrt(0.25 * 0.75)
# a number, a category of three values, another number
SPEC = InputSpec((5,), 2, (0.4, 0.25, 0.25, 0.5, 0.5), (0.1, SHARE, SHARE, 0.5, 0.2))
VALUES = torch.tensor([2, 0, 0])
NUMBERS = torch.tensor([[0.3, -1.0], [2.0, 0.5], [0.1, 0.0]])


def rows() -> torch.Tensor:
    flags = torch.nn.functional.one_hot(VALUES, 3)
    mean, std = torch.tensor(SPEC.mean)[1:4], torch.tensor(SPEC.std)[1:4]
    return torch.cat([NUMBERS[:, :1], (flags - mean) / std, NUMBERS[:, 1:]], 1)


def tokens() -> FeatureTokens:
    with seeding.isolate_randomness(0):
        return FeatureTokens(SPEC, 6)


def test_a_number_scales_a_vector_and_a_category_looks_one_up() -> None:
    layer = tokens()
    assert layer.features == ((0,), (1, 2, 3), (4,))
    expected = torch.stack(
        [NUMBERS[:, :1] * layer.weight[0], layer.weight[1:4][VALUES], NUMBERS[:, 1:] * layer.weight[4]], 1
    )
    torch.testing.assert_close(layer(rows()), expected + layer.bias)


def test_vectors_of_values_that_nobody_has_get_no_gradient() -> None:
    layer = tokens()
    layer(rows()).square().sum().backward()
    assert layer.weight.grad is not None
    sizes = layer.weight.grad.norm(dim=1)
    assert float(sizes[2]) < 1e-6 * float(sizes[[1, 3]].min())  # rounding of the normalisation that is undone


def test_without_public_statistics_every_column_is_a_number() -> None:
    layer = FeatureTokens(InputSpec((5,), 2, (0.0,) * 5, (1.0,) * 5), 6)
    assert layer.features == ((0,), (1,), (2,), (3,), (4,))
