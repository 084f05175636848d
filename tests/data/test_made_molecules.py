"""Made-up molecules."""

import networkx
import torch

from fedsim.core.nets.graph_networks import graphs_of
from fedsim.data.made_molecules import ATOMS, MadeMoleculesConfig, graph_matrix, made_molecules

VALENCES = torch.tensor([4, 3, 2, 2, 1])


def test_the_seed_decides_all() -> None:
    first, again = (made_molecules(MadeMoleculesConfig(molecules=20)) for _ in range(2))
    other = made_molecules(MadeMoleculesConfig(molecules=20, seed=1))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert (first.train.inputs.shape, len(first.test), first.spec.classes) == ((16, 9, 18), 4, 2)


def test_molecules_hang_together_keep_to_valences_and_close_a_ring() -> None:
    data = made_molecules(MadeMoleculesConfig(molecules=100, fewest=7, atoms=9))
    graphs = graphs_of(data.train.inputs)
    kinds = graphs.features[..., : len(ATOMS)].argmax(-1)
    rings = 0
    for joined, is_node, kind, features in zip(graphs.adjacency, graphs.is_node, kinds, graphs.features, strict=True):
        size = int(is_node.sum())
        assert 7 <= size <= 9
        graph = networkx.from_numpy_array(joined[:size, :size].numpy())
        assert networkx.is_connected(graph)
        rings += graph.number_of_edges() - size + 1
        degrees = joined[:size].sum(1)
        assert bool((degrees <= VALENCES[kind[:size]]).all())
        assert torch.equal(features[:size, len(ATOMS) :].argmax(-1) + 1, degrees.long())
    assert rings > 70  # of 80: a ring needs two free valences


def test_the_label_says_whether_heteroatoms_are_joined() -> None:
    data = made_molecules(MadeMoleculesConfig(molecules=100))
    for matrix, label in zip(data.train.inputs, data.train.labels.tolist(), strict=True):
        graphs = graphs_of(matrix[None])
        hetero = graphs.features[0, :, 1 : len(ATOMS)].sum(1)
        assert bool(hetero @ graphs.adjacency[0] @ hetero > 0) is bool(label)
    assert 0.2 < float(data.train.labels.float().mean()) < 0.6  # neither class is rare


def test_a_matrix_of_one_atom_pair() -> None:
    matrix = graph_matrix(torch.tensor([0, 4]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 3)
    assert matrix.nonzero().tolist() == [[0, 0], [0, 5], [0, 10], [1, 4], [1, 5], [1, 9]]
