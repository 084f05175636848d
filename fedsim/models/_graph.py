"""Settings and construction of graph networks."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.graph_networks import GraphLayer, GraphNetwork
from fedsim.core.types import Config, InputSpec

_MATRIX = 2  # dimensions of a graph


class GraphConfig(Config):
    """Settings of a network of graphs."""

    width: int = Field(default=64, ge=1, description="hidden values of a node")
    depth: int = Field(default=2, ge=1, description="layers, so how far a node sees")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability p of dropping a hidden value of a node")
    activation: Literal["gelu", "relu"] = Field(default="gelu", description="behind each layer")


def graph_network(name: str, layer: type[GraphLayer], config: GraphConfig, spec: InputSpec) -> nn.Module:
    """Build a graph network from layers of one type.

    Raises:
        FedsimError: the examples are not graphs.
    """
    if spec.vocabulary is not None or len(spec.shape) != _MATRIX or spec.shape[1] <= spec.shape[0]:
        raise FedsimError(
            f"model '{name}' reads graphs of n nodes as matrices (n, features + n), and an example has shape "
            f"{spec.shape}. Choose a data set of graphs, such as 'made-molecules'."
        )
    widths = [spec.shape[1] - spec.shape[0], *(config.width for _ in range(config.depth))]
    activation = nn.GELU() if config.activation == "gelu" else nn.ReLU()
    layers = [layer(inputs, outputs) for inputs, outputs in pairwise(widths)]
    return GraphNetwork(layers, activation, config.dropout, spec.classes)
