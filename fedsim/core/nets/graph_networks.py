"""Graph neural networks: encoding of graphs, and layers that mix the values of neighbouring nodes.

An example is a matrix (n, f + n) with a row per node: first its features, then its row of the adjacency matrix. The
features are one-hot columns for the kind of node, then one-hot columns for the number of neighbours, from 1. Smaller
graphs are padded with zero rows. A network maps graphs to class scores:

    h_0 = features,   h_l = act(S_l (h_{l-1} W_l + b_l)),   scores = readout(h_L)

S_l (n, n) contains the weight of node j for node i; `GraphLayer.shares` of each network defines it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class Graphs(NamedTuple):
    """A padded batch of graphs.

    Attributes:
        features: shape (B, n, f).
        adjacency: adjacency matrices, shape (B, n, n).
        degrees: numbers of neighbours, shape (B, n).
        is_node: 1 for nodes, 0 for padding, shape (B, n).
    """

    features: Tensor
    adjacency: Tensor
    degrees: Tensor
    is_node: Tensor


def graphs_of(inputs: Tensor) -> Graphs:
    """Split examples (B, n, f + n) into the parts of a graph."""
    nodes = inputs.shape[1]
    features, joined = inputs[..., :-nodes], inputs[..., -nodes:]
    return Graphs(features, joined, joined.sum(-1), (features != 0).any(-1).to(inputs.dtype))


class GraphLayer(nn.Module):
    """A linear layer on nodes, followed by mixing of neighbouring nodes.

    Attributes:
        linear: maps features to hidden values.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        """Initialise the linear layer with Glorot weights and zero bias."""
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @abstractmethod
    def shares(self, values: Tensor, graphs: Graphs) -> Tensor:
        """Return the weight of each node (column) for each node (row), shape (B, n, n); 0 for padding."""

    def forward(self, hidden: Tensor, graphs: Graphs) -> Tensor:
        """Return the new node values, shape (B, n, outputs)."""
        values = self.linear(hidden)
        return self.shares(values, graphs) @ values


class GraphNetwork(nn.Module):
    """Graph layers with activation and dropout, and a linear head on the mean over nodes.

    Attributes:
        layers: graph layers in order.
        activation: applied after each layer.
        dropouts: a dropout layer after each graph layer.
        head: maps the mean over nodes to scores.
    """

    def __init__(self, layers: Sequence[GraphLayer], activation: nn.Module, dropout: float, classes: int) -> None:
        """Build the network from its layers."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.activation = activation
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) for _ in layers)
        self.head = nn.Linear(layers[-1].linear.out_features, classes)

    def apply_layer(self, layer: int, values: Tensor, graphs: Graphs) -> Tensor:
        """Return the node values after a layer and its activation, before dropout, shape (B, n, width)."""
        return self.activation(self.layers[layer](values, graphs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores (B, classes) of graphs (B, n, f + n)."""
        graphs = graphs_of(inputs)
        values = graphs.features
        for number, dropout in enumerate(self.dropouts):
            values = dropout(self.apply_layer(number, values, graphs))
        nodes = graphs.is_node.sum(1, keepdim=True).clamp_min(1)
        return self.head((values * graphs.is_node[..., None]).sum(1) / nodes)
