"""Convolutions read windows by their times, and images by their rows."""

import pytest
import torch
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec
from fedsim.models.window_convnet import WindowConvnetConfig, window_convnet

WINDOW = InputSpec((6, 2), 3, (0.0,) * 6, (1.0,) * 6)


def test_a_layer_slides_over_the_times_of_a_window() -> None:
    model = window_convnet(WindowConvnetConfig(channels=4, depth=1, reach=1), WINDOW)
    (layer,) = (module for module in model.modules() if isinstance(module, nn.Conv1d))
    window = torch.rand(5, 6, 2)
    assert model(window).shape == (5, 3)
    read = nn.functional.gelu(layer(window.transpose(1, 2))).flatten(1)
    (head,) = (module for module in model.modules() if isinstance(module, nn.Linear))
    torch.testing.assert_close(model(window), head(read))


def test_a_mean_over_times_forgets_where_a_swing_stood() -> None:
    model = window_convnet(WindowConvnetConfig(channels=4, depth=1, reach=1, pooling="mean"), WINDOW)
    window = torch.zeros(1, 6, 2)
    window[0, 2] = 1.0
    torch.testing.assert_close(model(window), model(window.roll(1, 1)))


def test_rows_of_an_image_are_times() -> None:
    image = torch.rand(1, 2, 6, 3)
    rows = torch.stack([image[:, :, row].flatten(1) for row in range(6)], 1)
    torch.manual_seed(0)
    of_images = window_convnet(WindowConvnetConfig(), InputSpec((2, 6, 3), 4, (0.0,) * 2, (1.0,) * 2))
    torch.manual_seed(0)
    of_windows = window_convnet(WindowConvnetConfig(), InputSpec((6, 6), 4, (0.0,) * 6, (1.0,) * 6))
    torch.testing.assert_close(of_images(image), of_windows(rows))


def test_a_row_of_a_table_is_no_window() -> None:
    with pytest.raises(
        FedsimError, match=r"'window-convnet' reads images or windows \(times, variables\), got shape \(5,\)"
    ):
        window_convnet(WindowConvnetConfig(), InputSpec((5,), 2, (0.0,) * 5, (1.0,) * 5))
