"""Draft tokens after a text: a sequence, or a tree of sequences with shared prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draft:
    """Draft tokens after a text.

    Attributes:
        tokens: token of each node.
        parents: parent of each node, which has a lower index; -1 is the text's last token.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def line(cls, tokens: Sequence[int]) -> Draft:
        """Return a draft with a single branch."""
        return cls(tuple(tokens), tuple(range(-1, len(tokens) - 1)))

    @classmethod
    def tree(cls, paths: Iterable[Sequence[int]], limit: int) -> Draft:
        """Return the prefix tree of paths, shallow nodes first, with at most `limit` nodes.

        At equal depth, nodes of earlier paths come first.
        """
        beginnings = dict.fromkeys(tuple(path[:end]) for path in paths for end in range(1, len(path) + 1))
        chosen = sorted(beginnings, key=len)[:limit]
        number = {path: place for place, path in enumerate(chosen)}
        return cls(tuple(path[-1] for path in chosen), tuple(number.get(path[:-1], -1) for path in chosen))

    def depths(self) -> list[int]:
        """Return the depth of each node; children of the text's last token have depth 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 + (depths[parent] if parent >= 0 else 0))
        return depths

    def children(self, node: int) -> dict[int, int]:
        """Return the children of a node by token; -1 is the text's last token."""
        return {self.tokens[child]: child for child in range(len(self) - 1, -1, -1) if self.parents[child] == node}

    def follow(self, tokens: Sequence[int]) -> list[int]:
        """Return the nodes on the branch that matches the tokens, up to the first mismatch."""
        nodes: list[int] = []
        for token in tokens:
            child = self.children(nodes[-1] if nodes else -1).get(token)
            if child is None:
                break
            nodes.append(child)
        return nodes

    def ways(self) -> list[list[int]]:
        """Return the path of nodes to each leaf; a single empty path for an empty draft."""
        ways: list[list[int]] = []
        for node in range(len(self)):
            if node in self.parents:
                continue
            way = [node]
            while self.parents[way[-1]] >= 0:
                way.append(self.parents[way[-1]])
            ways.append(way[::-1])
        return ways or [[]]

    def sees(self) -> Tensor:
        """Return the attention mask among nodes, shape (N, N): each node attends to itself and its ancestors."""
        sees = torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees
