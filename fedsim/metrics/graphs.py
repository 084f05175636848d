"""Similarity of a guessed graph to the client's: isomorphism, nodes and edges, with a baseline of public graphs.

A node is identified by its features: kind and number of neighbours. Nodes and edges are compared as multisets, so the
numbering of nodes is irrelevant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from torch import Tensor

from fedsim.core import registry
from fedsim.core.nets.graph_networks import graphs_of

Node = tuple[float, ...]


def kinds_of(graph: Tensor) -> list[Node]:
    """Return the features of the nodes of a graph (n, f + n), without padding."""
    graphs = graphs_of(graph[None])
    return [tuple(row) for row in graphs.features[0][graphs.is_node[0] > 0].tolist()]


def joins_of(graph: Tensor) -> list[tuple[int, int]]:
    """Return the edges, as pairs of indices in `kinds_of`."""
    graphs = graphs_of(graph[None])
    nodes = graphs.is_node[0] > 0
    return [(first, second) for first, second in graphs.adjacency[0][nodes][:, nodes].triu(1).nonzero().tolist()]


@registry.metric(
    "graph_exact",
    title="graph read",
    summary="of a graph: whether the guess is the same up to a renumbering of the nodes",
    over="item",
    form="flag",
    digits=0,
    worst=0.0,
    noun="graph",
    threshold=0.5,
    verdict="read",
    leads=True,
)
def graph_exact(guess: Tensor, original: Tensor) -> float:
    """Return 1 if two graphs (n, f + n) are isomorphic with their features, else 0."""
    import networkx  # noqa: PLC0415 - takes long to import

    if nodes_right(guess, original) < 1.0:
        return 0.0
    graphs = [networkx.Graph() for _ in range(2)]
    for graph, matrix in zip(graphs, (guess, original), strict=True):
        graph.add_nodes_from((number, {"features": kind}) for number, kind in enumerate(kinds_of(matrix)))
        graph.add_edges_from(joins_of(matrix))
    return float(networkx.vf2pp_is_isomorphic(*graphs, node_label="features"))


@registry.metric(
    "nodes_right",
    title="nodes right",
    summary="of a graph: F1 of its nodes as a multiset of kinds with their numbers of neighbours",
    over="item",
    form="percent",
    digits=0,
    statistics={"graph.nodes_right": "mean"},
    worst=0.0,
    noun="graph",
)
def nodes_right(guess: Tensor, original: Tensor) -> float:
    """Return the F1 of the nodes of two graphs (n, f + n), in [0, 1]."""
    return _overlap(Counter(kinds_of(guess)), Counter(kinds_of(original)))


@registry.metric(
    "nodes_guessed",
    title="nodes right by other graphs",
    summary="of a graph: the same of public graphs, on average",
    over="item",
    form="percent",
    digits=0,
    statistics={"graph.nodes_guessed": "mean"},
    worst=0.0,
    noun="graph",
    compared=False,
)
def nodes_guessed(original: Tensor, public: Tensor) -> float:
    """Return the mean `nodes_right` of public graphs (N, n, f + n)."""
    return sum(nodes_right(graph, original) for graph in public) / len(public)


@registry.metric(
    "joins_right",
    title="joins right",
    summary="of a graph: F1 of its joins as a multiset of pairs of nodes, each with its kind and number of neighbours",
    over="item",
    form="percent",
    digits=0,
    statistics={"graph.joins_right": "mean"},
    worst=0.0,
    noun="graph",
)
def joins_right(guess: Tensor, original: Tensor) -> float:
    """Return the F1 of the edges of two graphs (n, f + n), in [0, 1]."""
    return _overlap(_joined_kinds(guess), _joined_kinds(original))


@registry.metric(
    "joins_guessed",
    title="joins right by other graphs",
    summary="of a graph: the same of public graphs, on average",
    over="item",
    form="percent",
    digits=0,
    statistics={"graph.joins_guessed": "mean"},
    worst=0.0,
    noun="graph",
    compared=False,
)
def joins_guessed(original: Tensor, public: Tensor) -> float:
    """Return the mean `joins_right` of public graphs (N, n, f + n)."""
    return sum(joins_right(graph, original) for graph in public) / len(public)


def _joined_kinds(graph: Tensor) -> Counter[Hashable]:
    kinds = kinds_of(graph)
    return Counter(tuple(sorted((kinds[first], kinds[second]))) for first, second in joins_of(graph))


def _overlap(guess: Counter[Hashable], original: Counter[Hashable]) -> float:
    """Return 2 |A and B| / (|A| + |B|); 1 if both are empty."""
    total = guess.total() + original.total()
    return 2 * (guess & original).total() / total if total else 1.0
