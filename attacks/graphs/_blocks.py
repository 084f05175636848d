"""Nodes and blocks, a node with its neighbours, that lie in the spans of a graph network's weight gradients.

A layer's weight gradient is M H with the nodes' values H in front of it, so its rows span those of H while M has full
rank. Features come from a finite alphabet, and what a node holds behind the first layer depends on its neighbours'
features and numbers of neighbours alone: so both are finite lists, of which each entry is tested.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.core.spans import part_outside
from attacks.core.tolerances import TINY
from fedsim.core.graph_networks import GraphNetwork, Graphs
from fedsim.core.types import Observation

_AT_ONCE = 4000  # blocks of one forward pass
_APART = 1e-3  # distance of unit vectors that are one direction: rounding of the gradient leaves about 1e-5
_COMPARED = 8  # of their coordinates; no two of some 50,000 other directions are so near in eight
_FEWEST_ALIKE = 2  # blocks; a null vector of S has two entries or more


class Alphabet(NamedTuple):
    """All that a node can be.

    Attributes:
        features: shape (K, f), float64.
        degrees: numbers of neighbours, shape (K,).
    """

    features: Tensor
    degrees: Tensor

    def taken(self, chosen: Tensor) -> Alphabet:
        """Return some of them."""
        return Alphabet(self.features[chosen], self.degrees[chosen])


class Star(NamedTuple):
    """A node and its neighbours, as numbers of an alphabet; the neighbours in ascending order."""

    centre: int
    around: tuple[int, ...]


class Candidates(NamedTuple):
    """Blocks, and what their centres hold behind the first layer, shape (N, width)."""

    blocks: list[Star]
    values: Tensor

    def inside(self, basis: Tensor, tolerance: float) -> list[Star]:
        """Return the blocks whose centres lie in a span."""
        passed = shares_outside(self.values, basis) < tolerance
        return [block for block, is_inside in zip(self.blocks, passed.tolist(), strict=True) if is_inside]


def features_of(observation: Observation) -> int:
    """Return how many columns of a graph are features; the others are joins."""
    nodes, columns = observation.spec.shape
    return columns - nodes


def too_many_kinds(kinds: int, observation: Observation) -> str | None:
    """Return why a number of kinds leaves no features for numbers of neighbours, or None."""
    if kinds < features_of(observation):
        return None
    return f"kinds = {kinds} leaves no feature that counts neighbours. Set fewer"


def alphabet_of(kinds: int, features: int) -> Alphabet:
    """Return each kind with each number of neighbours.

    Args:
        kinds: columns of kinds.
        features: columns of kinds and numbers of neighbours, which begin at 1.
    """
    most = features - kinds
    rows = torch.cat([torch.eye(kinds).repeat_interleave(most, 0), torch.eye(most).repeat(kinds, 1)], 1)
    return Alphabet(rows.double(), torch.arange(1, most + 1).repeat(kinds))


def shares_outside(rows: Tensor, basis: Tensor) -> Tensor:
    """Return the share of each row's (N, d) length that is outside a span (r, d), shape (N,)."""
    return part_outside(rows, basis).norm(dim=1) / rows.norm(dim=1).clamp_min(TINY)


def nodes_inside(alphabet: Alphabet, basis: Tensor, tolerance: float) -> Alphabet:
    """Return the nodes whose features lie in a span."""
    return alphabet.taken(shares_outside(alphabet.features, basis) < tolerance)


def candidates_of(network: GraphNetwork, nodes: Alphabet) -> Candidates:
    """Return every block of these nodes, and what the first layer makes of its centre."""
    blocks, values = list[Star](), list[Tensor]()
    for degree in nodes.degrees.unique().tolist():
        around = torch.tensor(list(combinations_with_replacement(range(len(nodes.degrees)), degree)))
        for centre in (nodes.degrees == degree).nonzero().flatten().tolist():
            values += [_centres(network, nodes, centre, part) for part in around.split(_AT_ONCE)]
            blocks += [Star(centre, tuple(row)) for row in around.tolist()]
    return Candidates(blocks, torch.cat(values))


def missing_direction(candidates: Candidates, basis: Tensor, tolerance: float) -> Tensor | None:
    """Return the direction (1, d) outside a span in which most blocks lie, or None where no two lie in one.

    Where the shares S have no inverse, or a row of M is small, one direction is missing in the span of H. Then what is
    outside of each of its rows that is not inside points there, and what is outside of other blocks points anywhere.
    """
    from scipy.spatial import KDTree  # noqa: PLC0415 - takes long to import

    rests = part_outside(candidates.values, basis)
    lengths = rests.norm(dim=1)
    rests = (rests / lengths[:, None].clamp_min(TINY))[lengths > tolerance * candidates.values.norm(dim=1)]
    if len(rests) < _FEWEST_ALIKE:
        return None
    mostly = rests.abs().sum(0).argsort(descending=True)[:_COMPARED]
    points = rests[:, mostly]
    points = (points * points[:, :1].sign()).numpy()
    alike = KDTree(points).query_ball_point(points, _APART, return_length=True)
    if int(alike.max()) < _FEWEST_ALIKE:
        return None
    return rests[int(alike.argmax())][None]


@torch.no_grad()
def _centres(network: GraphNetwork, nodes: Alphabet, centre: int, around: Tensor) -> Tensor:
    """Return what the first layer and its activation make of a node amid each of these neighbours, shape (N, width)."""
    members = torch.cat([torch.full((len(around), 1), centre), around], 1)
    joined = torch.zeros(members.shape[1], members.shape[1], dtype=torch.float64)
    joined[0, 1:] = joined[1:, 0] = 1
    features = nodes.features[members]
    stars = Graphs(features, joined.expand(len(members), -1, -1), nodes.degrees[members], torch.ones(members.shape))
    return network.hidden(0, features, stars)[:, 0]


def consistent(blocks: list[Star]) -> list[Star]:
    """Return the blocks each of whose neighbours is the centre of a block that such a neighbour may stand in.

    What is left out belongs to no graph all of whose blocks are in the list.
    """
    while True:
        seen = Counter((block.centre, neighbour) for block in blocks for neighbour in set(block.around))
        kept = [block for block in blocks if all(seen[neighbour, block.centre] for neighbour in block.around)]
        if len(kept) == len(blocks):
            return kept
        blocks = kept
