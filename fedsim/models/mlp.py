"""Multilayer perceptron: flatten, then blocks of linear, activation, dropout, and a linear head.

Paper: Scheliga, Maeder, Seeland 2023, arXiv 2208.06163: three hidden layers of 512 with GELU and without biases.
Leakage: at batch size 1 the first weight gradient has rank one, and its right factor is the input.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class MlpConfig(Config):
    """Settings of the MLP."""

    dropout: float = Field(default=0.25, ge=0, lt=1, description="probability p of dropping a hidden unit")
    width: int = Field(default=512, ge=1, description="units per hidden layer")
    depth: int = Field(default=3, ge=1, description="hidden layers")
    bias: bool = Field(default=False, description="whether linear layers have biases")
    activation: Literal["gelu", "relu", "leaky-relu", "sigmoid", "tanh"] = Field(
        default="gelu", description="after each hidden layer; leaky-relu has slope 0.01 below 0"
    )


@model("mlp", summary="linear, activation, dropout; three hidden layers without biases", paper="2208.06163")
def mlp(config: MlpConfig, spec: InputSpec) -> nn.Module:
    """Build the MLP for inputs of any shape.

    Raises:
        FedsimError: the inputs are tokens.
    """
    if spec.vocabulary is not None:
        raise FedsimError("model 'mlp' reads numbers, got tokens. Choose a language model, such as 'tiny-llama'.")
    widths = [math.prod(spec.shape), *(config.width for _ in range(config.depth))]
    activation = _ACTIVATIONS[config.activation]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=config.bias), activation(), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], spec.classes, bias=config.bias))
