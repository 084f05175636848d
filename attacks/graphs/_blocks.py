"""Test which nodes and blocks (nodes with their neighbours) lie in the spans of a graph network's weight gradients.

A layer's weight gradient is M H with the layer's inputs H, so its rows span the rows of H if M has full rank. Features
come from a finite alphabet, and a node's hidden value after the first layer depends only on the features and degrees
of itself and its neighbours. So both lists of candidates are finite, and every candidate is tested.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.core.spans import part_outside
from attacks.core.tolerances import TINY
from fedsim.core.nets.graph_networks import GraphNetwork, Graphs
from fedsim.core.types import Observation

_AT_ONCE = 4000  # blocks of one forward pass
_APART = 1e-3  # distance of unit vectors that count as equal: rounding of the gradient leaves about 1e-5
_COMPARED = 8  # compared coordinates; no two of some 50,000 other directions are so near in eight
_FEWEST_ALIKE = 2  # blocks; a null vector of S has at least two entries


class Alphabet(NamedTuple):
    """All possible nodes.

    Attributes:
        features: shape (K, f), float64.
        degrees: numbers of neighbours, shape (K,).
    """

    features: Tensor
    degrees: Tensor

    def select(self, chosen: Tensor) -> Alphabet:
        """Return the chosen nodes."""
        return Alphabet(self.features[chosen], self.degrees[chosen])


class Star(NamedTuple):
    """A node and its neighbours, as indices into an alphabet; the neighbours in ascending order."""

    centre: int
    around: tuple[int, ...]


class Candidates(NamedTuple):
    """Blocks, and the hidden values of their centres after the first layer, shape (N, width)."""

    blocks: list[Star]
    values: Tensor

    def inside(self, basis: Tensor, tolerance: float) -> list[Star]:
        """Return the blocks with centres in a span."""
        passed = shares_outside(self.values, basis) < tolerance
        return [block for block, is_inside in zip(self.blocks, passed.tolist(), strict=True) if is_inside]


def features_of(observation: Observation) -> int:
    """Return the number of feature columns of a graph; the other columns are the adjacency matrix."""
    nodes, columns = observation.spec.shape
    return columns - nodes


def too_many_kinds(kinds: int, observation: Observation) -> str | None:
    """Return why `kinds` leaves no feature columns for degrees, or None."""
    if kinds < features_of(observation):
        return None
    return f"kinds = {kinds} leaves no feature that counts neighbours. Set fewer"


def alphabet_of(kinds: int, features: int) -> Alphabet:
    """Return each kind with each degree.

    Args:
        kinds: number of kind columns.
        features: number of columns of kinds and degrees; degrees start at 1.
    """
    largest = features - kinds
    rows = torch.cat([torch.eye(kinds).repeat_interleave(largest, 0), torch.eye(largest).repeat(kinds, 1)], 1)
    return Alphabet(rows.double(), torch.arange(1, largest + 1).repeat(kinds))


def shares_outside(rows: Tensor, basis: Tensor) -> Tensor:
    """Return the share of each row's (N, d) norm that is outside a span (r, d), shape (N,)."""
    return part_outside(rows, basis).norm(dim=1) / rows.norm(dim=1).clamp_min(TINY)


def nodes_inside(alphabet: Alphabet, basis: Tensor, tolerance: float) -> Alphabet:
    """Return the nodes with features in a span."""
    return alphabet.select(shares_outside(alphabet.features, basis) < tolerance)


def candidates_of(network: GraphNetwork, nodes: Alphabet) -> Candidates:
    """Return every block of these nodes, with the hidden value of its centre after the first layer."""
    blocks, values = list[Star](), list[Tensor]()
    for degree in nodes.degrees.unique().tolist():
        neighbours = torch.tensor(list(combinations_with_replacement(range(len(nodes.degrees)), degree)))
        for centre in (nodes.degrees == degree).nonzero().flatten().tolist():
            values += [_centres(network, nodes, centre, part) for part in neighbours.split(_AT_ONCE)]
            blocks += [Star(centre, tuple(row)) for row in neighbours.tolist()]
    return Candidates(blocks, torch.cat(values))


def missing_direction(candidates: Candidates, basis: Tensor, tolerance: float) -> Tensor | None:
    """Return the direction (1, d) outside a span that most blocks share, or None if no two blocks share a direction.

    If the matrix S of neighbour weights is singular, or a row of M is small, the span of H lacks a direction. Then all
    true
    rows outside the span have their residual in this direction, and the residuals of other blocks are arbitrary.
    """
    from scipy.spatial import KDTree  # noqa: PLC0415 - takes long to import

    rests = part_outside(candidates.values, basis)
    lengths = rests.norm(dim=1)
    rests = (rests / lengths[:, None].clamp_min(TINY))[lengths > tolerance * candidates.values.norm(dim=1)]
    if len(rests) < _FEWEST_ALIKE:
        return None
    order = rests.abs().sum(0).argsort(descending=True)[:_COMPARED]
    points = rests[:, order]
    points = (points * points[:, :1].sign()).numpy()
    alike = KDTree(points).query_ball_point(points, _APART, return_length=True)
    if int(alike.max()) < _FEWEST_ALIKE:
        return None
    return rests[int(alike.argmax())][None]


@torch.no_grad()
def _centres(network: GraphNetwork, nodes: Alphabet, centre: int, neighbours: Tensor) -> Tensor:
    """Return a centre's hidden values after the first layer, for each of these neighbourhoods, (N, width)."""
    members = torch.cat([torch.full((len(neighbours), 1), centre), neighbours], 1)
    joined = torch.zeros(members.shape[1], members.shape[1], dtype=torch.float64)
    joined[0, 1:] = joined[1:, 0] = 1
    features = nodes.features[members]
    stars = Graphs(features, joined.expand(len(members), -1, -1), nodes.degrees[members], torch.ones(members.shape))
    return network.apply_layer(0, features, stars)[:, 0]


def consistent(blocks: list[Star]) -> list[Star]:
    """Return the blocks of which each neighbour is the centre of another block that has this centre as a neighbour.

    Removed blocks belong to no graph that consists of blocks in the list.
    """
    while True:
        seen = Counter((block.centre, neighbour) for block in blocks for neighbour in set(block.around))
        kept = [block for block in blocks if all(seen[neighbour, block.centre] for neighbour in block.around)]
        if len(kept) == len(blocks):
            return kept
        blocks = kept
