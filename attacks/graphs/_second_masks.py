"""Infer the dropout masks of a graph with known nodes and edges, from the gradient of the head.

The head's input is the mean over n nodes of m_i h_i / (1 - p), and its gradients determine that mean:
dW^T db / |db|^2. For each hidden unit, the mask is the subset of nodes with values that add up to the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, permutations, product

import torch
from torch import Tensor

from attacks.graphs._blocks import Star
from attacks.graphs._masked_blocks import MaskedBlock
from fedsim.core.nets.graph_networks import GraphNetwork, graphs_of
from fedsim.core.types import DropoutSite, Masks, Observation

MOST_NODES = 15  # 32,768 subsets are compared
_ASSIGNMENTS = 64  # limit of assignments of masks to nodes with equal neighbours
_NEAR = 1e-4  # tolerance relative to the largest mean: rounding of the head's gradient leaves about 1e-6


def add_masks(masks: dict[Star, list[Tensor]], blocks: Sequence[Star], passed: Sequence[MaskedBlock]) -> None:
    """Add the new masks to those of each block."""
    for guess in passed:
        known = masks.setdefault(blocks[guess.number], [])
        if not any(torch.equal(guess.mask, mask) for mask in known):
            known.append(guess.mask)


def masks_of(
    observation: Observation, network: GraphNetwork, guess: Tensor, blocks: Sequence[Star],
    masks: Mapping[Star, Sequence[Tensor]],
) -> Iterator[Masks]:  # fmt: skip
    """Yield the masks of both layers under which a graph gives the head's observed input.

    Args:
        observation: of one graph and two layers.
        network: the model in float64.
        guess: the graph, (1, n, f + n).
        blocks: blocks of its nodes.
        masks: possible masks of each block's centre.
    """
    for first in islice(_assignments(blocks, masks), _ASSIGNMENTS):
        second = _subsets(observation, network, guess, first)
        if second is not None:
            pairs = zip((first, second), observation.sites, strict=True)
            yield tuple(_pad_mask(mask, site) for mask, site in pairs)


def _assignments(blocks: Sequence[Star], masks: Mapping[Star, Sequence[Tensor]]) -> Iterator[Tensor]:
    """Yield masks (nodes, width); nodes with equal blocks have different masks if there are enough."""
    places = {block: [node for node, block_of_node in enumerate(blocks) if block_of_node == block] for block in blocks}
    choices = [
        permutations(masks[block], len(nodes))
        if len(masks[block]) >= len(nodes)
        else product(masks[block], repeat=len(nodes))
        for block, nodes in places.items()
    ]
    order = [node for nodes in places.values() for node in nodes]
    for chosen in product(*choices):
        rows = torch.stack([mask for part in chosen for mask in part])
        yield rows[torch.tensor(order).argsort()]


@torch.no_grad()
def _subsets(observation: Observation, network: GraphNetwork, guess: Tensor, first: Tensor) -> Tensor | None:
    """Return the masks (nodes, width) of the second layer, or None if no subsets give the head's input."""
    graphs, (first_site, second_site) = graphs_of(guess.double()), observation.sites
    hidden = torch.zeros(1, guess.shape[1], first.shape[1], dtype=torch.float64)
    hidden[0, : len(first)] = first / (1 - first_site.rate)
    hidden = network.apply_layer(1, network.apply_layer(0, graphs.features, graphs) * hidden, graphs)[0, : len(first)]
    wanted = _read_by_head(observation)
    subsets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * len(first))
    errors, chosen = (subsets @ hidden / len(first) / (1 - second_site.rate) - wanted).abs().min(0)
    return subsets[chosen].T if float(errors.max()) < _NEAR * float(wanted.abs().max()) else None


def _read_by_head(observation: Observation) -> Tensor:
    weight, bias = (observation.update.tensors[f"head.{part}"].double() for part in ("weight", "bias"))
    return weight.T @ bias / bias.square().sum()


def _pad_mask(mask: Tensor, site: DropoutSite) -> Tensor:
    """Return a mask of the site's shape; padding nodes get the expected mask."""
    whole = torch.full(site.shape, 1 - site.rate)
    whole[0, : len(mask)] = mask.float()
    return whole
