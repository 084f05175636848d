"""Recurrent network: an RNN, GRU or LSTM layer over the time steps of a window, and a dense layer on its last state.

In an image each row of pixels is a time step. Leakage: the gradients of the biases and of the state-to-state weights
map each state to the next input, so a window of few time steps is recovered exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._inputs import as_windows, window_shape

_LAYERS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class RecurrentConfig(Config):
    """Settings of the recurrent network."""

    cell: Literal["rnn", "gru", "lstm"] = Field(default="gru", description="update of the hidden state")
    width: int = Field(default=64, ge=1, description="numbers of a state")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability p of dropping a number of the last state")


class _LastState(nn.Module):
    """Maps a window (B, times, variables), or the rows of images, to the last state (B, width)."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last state."""
        return self.layer(as_windows(inputs))[0][:, -1]


@model("recurrent", summary="an RNN, GRU or LSTM over the times of a window, or the rows of an image")
def recurrent(config: RecurrentConfig, spec: InputSpec) -> nn.Module:
    """Build the network for windows (times, variables) or images (C, H, W); it returns (B, classes).

    Raises:
        FedsimError: the inputs are neither windows nor images.
    """
    _, variables = window_shape(spec, "recurrent")
    layer = _LAYERS[config.cell](variables, config.width, batch_first=True)
    return nn.Sequential(_LastState(layer), nn.Dropout(config.dropout), nn.Linear(config.width, spec.classes))
