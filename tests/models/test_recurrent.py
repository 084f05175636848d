"""A recurrent layer reads windows, or the rows of images."""

import pytest
import torch
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec
from fedsim.models.recurrent import RecurrentConfig, recurrent

WINDOW = InputSpec((6, 2), 3, (0.0,) * 6, (1.0,) * 6)


@pytest.mark.parametrize(("cell", "kind"), [("rnn", nn.RNN), ("gru", nn.GRU), ("lstm", nn.LSTM)])
def test_each_cell_reads_windows(cell: str, kind: type[nn.RNNBase]) -> None:
    model = recurrent(RecurrentConfig(cell=cell, width=5), WINDOW)  # type: ignore[arg-type]
    assert [module.input_size for module in model.modules() if isinstance(module, kind)] == [2]
    assert model(torch.zeros(4, 6, 2)).shape == (4, 3)


def test_rows_of_an_image_are_read_from_the_top() -> None:
    model = recurrent(RecurrentConfig(width=5), InputSpec((2, 6, 3), 4, (0.0,) * 2, (1.0,) * 2)).eval()
    image = torch.rand(1, 2, 6, 3)
    layer = next(module for module in model.modules() if isinstance(module, nn.GRU))
    windows = torch.stack([image[:, :, row].flatten(1) for row in range(6)], 1)
    torch.testing.assert_close(model(image), model[2](layer(windows)[0][:, -1]))


def test_a_row_of_a_table_is_no_window() -> None:
    with pytest.raises(FedsimError, match=r"reads images or windows \(times, variables\), got shape \(5,\)"):
        recurrent(RecurrentConfig(), InputSpec((5,), 2, (0.0,) * 5, (1.0,) * 5))
