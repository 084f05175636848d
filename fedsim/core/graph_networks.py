"""Networks of graphs: what one example is, and layers in which every node takes a share of its neighbours.

An example is a matrix (n, f + n): a row a node, first its features, then 1 for every node that it is joined to. The
features are one column for each kind of node, then one for each number of neighbours, from 1; of each exactly one is 1.
A graph of fewer nodes ends with rows of zeros. A network maps graphs to scores of classes:

    h_0 = features,   h_l = act(S_l (h_{l-1} W_l + b_l)),   scores = readout(h_L)

S_l (n, n) holds the share of node j that node i takes; it differs by network and is what a layer says of itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class Graphs(NamedTuple):
    """A batch of graphs, filled up with nodes that are none.

    Attributes:
        features: shape (B, n, f).
        joined: 1 where two nodes are joined, shape (B, n, n).
        degrees: numbers of neighbours, shape (B, n).
        is_node: 1 for nodes, 0 for what fills a graph up, shape (B, n).
    """

    features: Tensor
    joined: Tensor
    degrees: Tensor
    is_node: Tensor


def graphs_of(inputs: Tensor) -> Graphs:
    """Return what examples (B, n, f + n) say."""
    nodes = inputs.shape[1]
    features, joined = inputs[..., :-nodes], inputs[..., -nodes:]
    return Graphs(features, joined, joined.sum(-1), (features != 0).any(-1).to(inputs.dtype))


class GraphLayer(nn.Module):
    """A linear layer of the nodes, of which every node then takes shares.

    Attributes:
        linear: from features to hidden values.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        """Make the linear layer, by Glorot's rule and with a bias of 0."""
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @abstractmethod
    def shares(self, values: Tensor, graphs: Graphs) -> Tensor:
        """Return how much each node (row) takes of each node (column), shape (B, n, n); nothing of what is no node."""

    def forward(self, hidden: Tensor, graphs: Graphs) -> Tensor:
        """Return what the nodes hold afterwards, shape (B, n, outputs)."""
        values = self.linear(hidden)
        return self.shares(values, graphs) @ values


class GraphNetwork(nn.Module):
    """Graph layers, each with activation and dropout, and a linear head on the mean of the nodes.

    Attributes:
        layers: in their order.
        activation: behind every layer.
        dropouts: of hidden values, one behind each layer.
        head: from the mean of the nodes to scores.
    """

    def __init__(self, layers: Sequence[GraphLayer], activation: nn.Module, dropout: float, classes: int) -> None:
        """Put layers together."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.activation = activation
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) for _ in layers)
        self.head = nn.Linear(layers[-1].linear.out_features, classes)

    def hidden(self, layer: int, values: Tensor, graphs: Graphs) -> Tensor:
        """Return what the nodes hold behind a layer and its activation, before dropout, shape (B, n, width)."""
        return self.activation(self.layers[layer](values, graphs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores (B, classes) of graphs (B, n, f + n)."""
        graphs = graphs_of(inputs)
        values = graphs.features
        for number, dropout in enumerate(self.dropouts):
            values = dropout(self.hidden(number, values, graphs))
        nodes = graphs.is_node.sum(1, keepdim=True).clamp_min(1)
        return self.head((values * graphs.is_node[..., None]).sum(1) / nodes)
