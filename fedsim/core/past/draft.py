"""Tokens that may follow a text: a line, or a tree whose branches share their beginnings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draft:
    """Tokens that may follow a text.

    Attributes:
        tokens: of each node.
        parents: the node in front of each, which comes earlier; -1 is the text's last token.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def line(cls, tokens: Sequence[int]) -> Draft:
        """Return a draft of one branch."""
        return cls(tuple(tokens), tuple(range(-1, len(tokens) - 1)))

    @classmethod
    def tree(cls, paths: Iterable[Sequence[int]], limit: int) -> Draft:
        """Return a tree of paths with shared beginnings, the shallow nodes first, and at most `limit` of them.

        Among nodes of one depth, those of the first paths come first.
        """
        beginnings = dict.fromkeys(tuple(path[:end]) for path in paths for end in range(1, len(path) + 1))
        chosen = sorted(beginnings, key=len)[:limit]
        number = {path: place for place, path in enumerate(chosen)}
        return cls(tuple(path[-1] for path in chosen), tuple(number.get(path[:-1], -1) for path in chosen))

    def depths(self) -> list[int]:
        """Return how many tokens lie between the text's last token and each node, itself counted."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 + (depths[parent] if parent >= 0 else 0))
        return depths

    def children(self, node: int) -> dict[int, int]:
        """Return the nodes behind a node by token; -1 is the text's last token."""
        return {self.tokens[child]: child for child in range(len(self) - 1, -1, -1) if self.parents[child] == node}

    def follow(self, tokens: Sequence[int]) -> list[int]:
        """Return the nodes that a text goes through, as far as it follows a branch."""
        nodes: list[int] = []
        for token in tokens:
            child = self.children(nodes[-1] if nodes else -1).get(token)
            if child is None:
                break
            nodes.append(child)
        return nodes

    def ways(self) -> list[list[int]]:
        """Return the nodes from behind the text to every node that no other is behind; one empty way if it is empty."""
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
        """Return what each node sees of the nodes, shape (N, N): itself, and those on its way."""
        sees = torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees
