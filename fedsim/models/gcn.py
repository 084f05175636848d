"""Graph convolutional network: every node averages itself and its neighbours by degree-normalised weights S.

    S_ij = 1 / sqrt((d_i + 1) (d_j + 1)) for i = j and for neighbours, else 0

Paper: Kipf, Welling 2017, arXiv 1609.02907. Leakage: a layer's weight gradient spans the nodes' inputs if S is
invertible and there are fewer nodes than hidden units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.core.nets.graph_networks import GraphLayer, Graphs
from fedsim.core.registry import model
from fedsim.core.types import InputSpec
from fedsim.models._graph import GraphConfig, graph_network


class ConvolutionOfNodes(GraphLayer):
    """Graph layer with weights from degrees."""

    def shares(self, values: Tensor, graphs: Graphs) -> Tensor:
        """Return the adjacency matrix with self-loops, normalised by the square roots of the degrees."""
        scale = graphs.is_node / (graphs.degrees + 1).sqrt()
        neighbourhood = graphs.adjacency + torch.eye(graphs.adjacency.shape[-1]).to(graphs.adjacency)
        return scale[..., :, None] * neighbourhood * scale[..., None, :]


@model("gcn", summary="graph convolutions, activation, dropout, linear on the mean of the nodes", paper="1609.02907")
def gcn(config: GraphConfig, spec: InputSpec) -> nn.Module:
    """Build the network.

    Raises:
        FedsimError: the examples are not graphs.
    """
    return graph_network("gcn", ConvolutionOfNodes, config, spec)
