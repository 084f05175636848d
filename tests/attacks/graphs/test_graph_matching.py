"""The usual search for a graph, as what stands beside the reading of one."""

import torch

from attacks.graphs.graph_matching import _rounded, _soft
from fedsim.core.nets.graph_networks import graphs_of
from fedsim.data.made_molecules import MadeMoleculesConfig, made_molecules


def test_logits_become_kinds_numbers_of_neighbours_and_symmetric_joins() -> None:
    graphs = _soft(torch.randn(2, 6, 15, generator=torch.Generator().manual_seed(0)), 5)
    torch.testing.assert_close(graphs[..., :5].sum(-1), torch.ones(2, 6))
    torch.testing.assert_close(graphs[..., 5:9].sum(-1), torch.ones(2, 6))
    joined = graphs[..., 9:]
    torch.testing.assert_close(joined, joined.transpose(1, 2))
    assert joined.diagonal(dim1=1, dim2=2).eq(0).all()


def test_rounding_leaves_a_graph_as_it_is() -> None:
    whole = made_molecules(MadeMoleculesConfig(molecules=30, fewest=6, atoms=6)).train.inputs
    assert torch.equal(_rounded(whole * 0.8 + 0.1, 5), whole)
    assert graphs_of(_rounded(torch.full((1, 6, 15), 0.9), 5)).degrees.tolist() == [[6.0] * 6]
