"""Synthetic molecules: trees of atoms by valences, closed to rings; the label is whether two heteroatoms are bound.

The first atom is a carbon. Each further atom is bound to an atom with a free valence; then pairs of atoms with free
valences are bound until there are enough rings. Everything depends on the seed; no file is read.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Config, Dataset, InputSpec

ATOMS = ("C", "N", "O", "S", "F")
_VALENCES = (4, 3, 2, 2, 1)
_OFTEN = (0.55, 0.17, 0.15, 0.06, 0.07)
_LARGEST = max(_VALENCES)


class MadeMoleculesConfig(Config):
    """Settings of made-molecules."""

    molecules: int = Field(default=600, ge=10, description="a fifth of them for testing")
    fewest: int = Field(default=6, ge=2, description="atoms of the smallest")
    atoms: int = Field(default=9, ge=2, description="atoms of the largest")
    rings: int = Field(default=1, ge=0, description="rings that are closed, where valences are free")
    seed: int = Field(default=0, ge=0, description="of the molecules; not the scenario's seed")


@dataset("made-molecules", summary="graphs of atoms by their valences, and whether two heteroatoms are joined")
def made_molecules(config: MadeMoleculesConfig) -> Dataset:
    """Generate graphs (atoms, 9 + atoms) and labels."""
    source = seeding.generator(config.seed, "made molecules")
    sizes = torch.randint(min(config.fewest, config.atoms), config.atoms + 1, (config.molecules,), generator=source)
    made = [_molecule(size, config.rings, source) for size in sizes.tolist()]
    inputs = torch.stack([graph_matrix(kinds, joined, config.atoms) for kinds, joined in made])
    labels = torch.tensor([_are_heteroatoms_joined(kinds, joined) for kinds, joined in made]).long()
    train, test = Batch(inputs, labels).split(config.molecules - config.molecules // 5)
    spec = InputSpec((config.atoms, inputs.shape[-1]), 2, (0.0,), (1.0,))
    return Dataset(train, test, spec, ("apart", "joined"), task="graph-classification")


def graph_matrix(kinds: Tensor, joined: Tensor, nodes: int) -> Tensor:
    """Return a graph in the input format of graph networks, shape (nodes, kinds + degrees + nodes).

    Args:
        kinds: index of the element of each node, shape (n,).
        joined: adjacency matrix, shape (n, n).
        nodes: rows of the matrix; rows after the n-th are 0.
    """
    count = len(kinds)
    matrix = torch.zeros(nodes, len(ATOMS) + _LARGEST + nodes)
    matrix[:count, : len(ATOMS)] = torch.eye(len(ATOMS))[kinds]
    matrix[:count, len(ATOMS) : len(ATOMS) + _LARGEST] = torch.eye(_LARGEST + 1)[joined.sum(1).long()][:, 1:]
    matrix[:count, len(ATOMS) + _LARGEST :][:, :count] = joined
    return matrix


def _molecule(size: int, rings: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return kinds (size,) and bonds (size, size) of a molecule."""
    valences, kinds, joined = torch.tensor(_VALENCES), torch.zeros(size, dtype=torch.long), torch.zeros(size, size)
    for atom in range(1, size):
        free = (valences[kinds[:atom]] - joined[:atom, :atom].sum(1)).clamp_min(0)
        odds = torch.tensor(_OFTEN)
        if free.sum() == 1:  # a fluorine would end the tree here
            odds[valences == 1] = 0
        kinds[atom] = torch.multinomial(odds, 1, generator=source)
        second = torch.multinomial(free, 1, generator=source)
        joined[atom, second] = joined[second, atom] = 1
    for _ in range(rings):
        free = (valences[kinds] > joined.sum(1)).float()
        open_pairs = (free[:, None] * free * (1 - joined)).triu(1).flatten()
        if not open_pairs.any():
            break
        first, second = divmod(int(torch.multinomial(open_pairs, 1, generator=source)), size)
        joined[first, second] = joined[second, first] = 1
    return kinds, joined


def _are_heteroatoms_joined(kinds: Tensor, joined: Tensor) -> bool:
    hetero = (kinds > 0).float()
    return bool((hetero[:, None] * hetero * joined).any())
