"""How near two graphs are."""

import networkx
import pytest
import torch
from torch import Tensor

from fedsim.data.made_molecules import MadeMoleculesConfig, graph_matrix, made_molecules
from fedsim.metrics.graphs import graph_exact, joins_guessed, joins_right, nodes_guessed, nodes_right


def graph(kinds: list[int], *joins: tuple[int, int], nodes: int = 6) -> Tensor:
    joined = torch.zeros(len(kinds), len(kinds))
    for one, other in joins:
        joined[one, other] = joined[other, one] = 1
    return graph_matrix(torch.tensor(kinds), joined, nodes)


def test_a_renumbered_graph_is_the_same() -> None:
    one = graph([0, 0, 1, 2], (0, 1), (1, 2), (1, 3))
    other = graph([2, 1, 0, 0], (0, 2), (1, 2), (2, 3))
    assert graph_exact(other, one) == nodes_right(other, one) == joins_right(other, one) == 1.0


def test_equal_nodes_and_joins_are_not_yet_the_same_graph() -> None:
    """Two triangles and a ring of six have the same nodes and the same pairs of joined nodes."""
    ring = graph([0] * 6, (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5))
    triangles = graph([0] * 6, (0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5))
    assert nodes_right(ring, triangles) == joins_right(ring, triangles) == 1.0
    assert graph_exact(ring, triangles) == 0.0


def test_shares_count_what_is_common() -> None:
    """Of C-N and C-O one node of two is common, and no join."""
    one, other = graph([0, 1], (0, 1)), graph([0, 2], (0, 1))
    assert nodes_right(one, other) == 0.5
    assert joins_right(one, other) == 0.0


def test_a_row_without_features_is_no_node_wherever_it_stands() -> None:
    whole, apart = graph([0, 1], (0, 1)), torch.zeros(6, 15)
    apart[[0, 2]] = whole[[0, 1]]
    apart[:, 9:] = 0
    apart[0, 11] = apart[2, 9] = 1
    assert graph_exact(apart, whole) == joins_right(apart, whole) == 1.0


def test_an_empty_guess_shares_nothing() -> None:
    assert nodes_right(torch.zeros(6, 15), graph([0, 1], (0, 1))) == 0.0


def test_public_graphs_give_the_mean() -> None:
    one, other = graph([0, 1], (0, 1)), graph([0, 2], (0, 1))
    assert nodes_guessed(one, torch.stack([one, other])) == pytest.approx(0.75)
    assert joins_guessed(one, torch.stack([one, other])) == pytest.approx(0.5)


def test_the_same_up_to_a_renumbering_agrees_with_another_algorithm() -> None:
    data = made_molecules(MadeMoleculesConfig(molecules=60, fewest=4, atoms=5)).train.inputs
    graphs = [networkx.Graph() for _ in data]
    for made, matrix in zip(graphs, data, strict=True):
        count = int((matrix[:, :9] != 0).any(1).sum())
        made.add_nodes_from((number, {"f": tuple(matrix[number, :9].tolist())}) for number in range(count))
        made.add_edges_from(matrix[:, 9:].nonzero().tolist())
    same = networkx.algorithms.isomorphism.categorical_node_match("f", None)
    pairs = [(one, other) for one in range(len(data)) for other in range(one)]
    expected = [networkx.is_isomorphic(graphs[one], graphs[other], node_match=same) for one, other in pairs]
    assert [graph_exact(data[one], data[other]) == 1.0 for one, other in pairs] == expected
    assert any(expected)
