"""Attention weights are those of torch, and parts of a joint projection are its slices."""

import pytest
import torch
import torch.nn.functional as F

from fedsim.models._attention import attention_weights, split_heads


@pytest.mark.parametrize("is_masked", [False, True])
def test_weights_are_those_of_torch(is_masked: bool) -> None:
    queries, keys, values = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 5), torch.randn(2, 3, 6, 7)
    mask = torch.randn(2, 1, 4, 6) if is_masked else None
    weights = attention_weights(queries, keys, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 4))
    torch.testing.assert_close(weights @ values, F.scaled_dot_product_attention(queries, keys, values, mask))


def test_heads_are_slices_of_the_projection() -> None:
    projected = torch.randn(2, 4, 3 * 6)
    parts = split_heads(projected, 2)
    for part, third in zip(parts, projected.chunk(3, -1), strict=True):
        assert part.shape == (2, 2, 4, 3)
        assert torch.equal(part[:, 1], third[..., 3:])
    assert len(parts) == 3


def test_weights_have_second_derivatives() -> None:
    torch.autograd.gradgradcheck(
        attention_weights, [torch.randn(1, 2, 3, dtype=torch.double, requires_grad=True) for _ in range(2)]
    )
