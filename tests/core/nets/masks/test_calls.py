"""Calls of dropout functions that are taken over, attention among them."""

import pytest
import torch
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.masks import disable_dropout, record_masks


def test_attention_with_masks_and_weights_equals_the_fused_kernel() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x, allowed = torch.randn(2, 4, 8), torch.ones(4, 4).tril().bool()
    plain, weights = attention(x, x, x, attn_mask=~allowed)
    with disable_dropout():
        ours, our_weights = attention(x, x, x, attn_mask=~allowed)
    assert torch.allclose(plain, ours, atol=1e-6)
    assert torch.allclose(weights, our_weights, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.AlphaDropout(0.2)), "alpha dropout"),
        (nn.Sequential(nn.LSTM(3, 3, 2, dropout=0.2)), "recurrent layers"),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(1.0)), "0 <= p < 1"),
    ],
)
def test_dropout_that_is_no_mask_is_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(FedsimError, match=reason), record_masks(model, torch.Generator()):
        model(torch.ones(2, 3))
