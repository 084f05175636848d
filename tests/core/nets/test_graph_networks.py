"""What a graph is, and what networks make of it."""

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.nets.graph_networks import GraphLayer, GraphNetwork, graphs_of
from fedsim.core.types import InputSpec
from fedsim.data.made_molecules import graph_matrix
from fedsim.models._graph import GraphConfig
from fedsim.models.gat import gat
from fedsim.models.gcn import gcn

NETWORKS = [gat, gcn]


def path(*kinds: int, nodes: int = 6) -> Tensor:
    """A path of atoms, as a batch of one."""
    joined = torch.zeros(len(kinds), len(kinds))
    for atom in range(len(kinds) - 1):
        joined[atom, atom + 1] = joined[atom + 1, atom] = 1
    return graph_matrix(torch.tensor(kinds), joined, nodes)[None]


def network(build: object, nodes: int = 6) -> GraphNetwork:
    torch.manual_seed(3)
    spec = InputSpec((nodes, 9 + nodes), 3, (0.0,), (1.0,))
    made = build(GraphConfig(width=8), spec)  # type: ignore[operator]
    assert isinstance(made, GraphNetwork)
    return made.double()


def test_a_matrix_says_features_joins_degrees_and_what_is_no_node() -> None:
    graphs = graphs_of(path(0, 1, 0))
    assert graphs.features.shape == (1, 6, 9)
    assert graphs.degrees.tolist() == [[1, 2, 1, 0, 0, 0]]
    assert graphs.is_node.tolist() == [[1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("build", NETWORKS)
def test_numbering_and_filling_change_nothing(build: object) -> None:
    graph = path(0, 1, 2, 0).double()
    order = torch.tensor([2, 0, 3, 1, 4, 5])
    turned = torch.cat([graph[:, order, :9], graph[:, order][:, :, 9 + order]], -1)
    torch.testing.assert_close(network(build)(turned), network(build)(graph), rtol=1e-12, atol=1e-12)
    fuller = network(build, nodes=9)
    fuller.load_state_dict(network(build).state_dict())
    scores = fuller(path(0, 1, 2, 0, nodes=9).double())
    torch.testing.assert_close(scores, network(build)(graph), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("build", NETWORKS)
def test_a_node_sees_no_farther_than_there_are_layers(build: object) -> None:
    near, far = path(0, 1, 0, 0, 0, 0).double(), path(0, 1, 0, 0, 0, 1).double()
    layers = network(build)
    hidden = [layers.apply_layer(0, graphs_of(graph).features, graphs_of(graph)) for graph in (near, far)]
    torch.testing.assert_close(hidden[0][0, :4], hidden[1][0, :4])
    assert not torch.allclose(hidden[0][0, 4], hidden[1][0, 4])


def test_shares_by_degrees_are_those_of_the_normalised_adjacency() -> None:
    layer = network(gcn).layers[0]
    assert isinstance(layer, GraphLayer)
    graphs = graphs_of(path(0, 1, 2, 0, 1, 0).double())
    around = graphs.adjacency[0] + torch.eye(6)
    scale = torch.diag(around.sum(1).rsqrt())
    torch.testing.assert_close(layer.shares(graphs.features, graphs)[0], scale @ around @ scale)


def test_attention_is_a_softmax_over_a_node_and_its_neighbours() -> None:
    layer = network(gat).layers[0]
    graphs = graphs_of(path(0, 1, 2, 0).double())
    values = layer.linear(graphs.features)  # type: ignore[union-attr, operator]
    scores = nn.functional.leaky_relu(
        layer.taking(values)[0] + layer.given(values)[0].T,  # type: ignore[union-attr, operator]
        0.2,
    )
    shares = layer.shares(values, graphs)[0]  # type: ignore[union-attr, operator]
    for node, around in enumerate([[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]):
        torch.testing.assert_close(shares[node, around], scores[node, around].softmax(0))
    assert shares[:, 4:].eq(0).all()
    assert shares[4:].eq(0).all()
