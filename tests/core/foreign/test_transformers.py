"""Undocumented names of transformers behave as fedsim expects."""

import pytest
import torch

pytest.importorskip("transformers")

from fedsim.core.foreign.transformers import apply_rotary_pos_emb


def test_rotary_embedding_rotates_halves_of_queries_and_keys() -> None:
    queries, keys = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)  # (batch, heads, tokens, width)
    angles = torch.randn(1, 3, 2).repeat(1, 1, 2)
    turned = apply_rotary_pos_emb(queries, keys, angles.cos(), angles.sin())
    for before, after in zip((queries, keys), turned, strict=True):
        left, right = before.chunk(2, -1)
        expected = before * angles.cos()[:, None] + torch.cat([-right, left], -1) * angles.sin()[:, None]
        torch.testing.assert_close(after, expected)
