"""GPT-2's layers hold their weight the other way round, and adapters inside of them do not."""

import pytest
import torch
from torch import nn

from attacks.core.attention import kind_at


def test_rows_are_combinations_of_inputs() -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    layer, inputs = utils.Conv1D(9, 4), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    kind = kind_at(nn.ModuleDict({"c_attn": layer}))
    layer(inputs).square().sum().backward()
    rows = kind.rows(layer, layer.weight.grad)
    combined = torch.linalg.lstsq(inputs.T, rows.T).solution
    torch.testing.assert_close(inputs.T @ combined, rows.T)
    plain = torch.zeros(3, 4)
    assert kind.rows(nn.Linear(4, 3), plain) is plain
