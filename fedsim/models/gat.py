"""Graph attention network with one head: every node averages itself and its neighbours by attention weights S.

    S_ij = softmax over j = i and neighbours of leaky_relu(a . v_i + b . v_j),   v = W h + bias

Paper: Velickovic et al. 2018, arXiv 1710.10903. Leakage: a layer's weight gradient spans the nodes' inputs if there are
fewer nodes than hidden units; S is nearly always invertible.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core.nets.graph_networks import GraphLayer, Graphs
from fedsim.core.registry import model
from fedsim.core.types import InputSpec
from fedsim.models._graph import GraphConfig, graph_network

_SLOPE = 0.2  # of the leaky ReLU, the paper's


class AttentionOfNodes(GraphLayer):
    """Graph layer with attention weights from the values of both nodes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Create the linear layer and both halves of the attention."""
        super().__init__(inputs, outputs)
        self.taking, self.given = nn.Linear(outputs, 1, bias=False), nn.Linear(outputs, 1, bias=False)

    def shares(self, values: Tensor, graphs: Graphs) -> Tensor:
        """Return the attention of each node to itself and its neighbours."""
        scores = F.leaky_relu(self.taking(values) + self.given(values).transpose(1, 2), _SLOPE)
        neighbourhood = graphs.adjacency + torch.eye(graphs.adjacency.shape[-1]).to(graphs.adjacency)
        real = graphs.is_node[..., None] * graphs.is_node[..., None, :]
        weights = (scores - scores.detach().amax(-1, keepdim=True)).exp() * neighbourhood * real
        return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


@model("gat", summary="graph attention, activation, dropout, linear on the mean of the nodes", paper="1710.10903")
def gat(config: GraphConfig, spec: InputSpec) -> nn.Module:
    """Build the network.

    Raises:
        FedsimError: the examples are not graphs.
    """
    return graph_network("gat", AttentionOfNodes, config, spec)
