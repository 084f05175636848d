"""Assemble graphs from given blocks by depth-first search: each step completes the neighbours of a node."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from attacks.graphs._blocks import Star


@dataclass(frozen=True)
class Partial:
    """A partially assembled graph.

    Attributes:
        kinds: indices of its nodes in an alphabet.
        joins: edges as pairs of node indices, the smaller first.
        complete_nodes: indices of the nodes that have all their neighbours.
    """

    kinds: tuple[int, ...]
    joins: frozenset[tuple[int, int]]
    complete_nodes: frozenset[int]

    @property
    def is_closed(self) -> bool:
        """Return whether every node has all its neighbours."""
        return len(self.complete_nodes) == len(self.kinds)

    def around(self, node: int) -> list[int]:
        """Return the indices of a node's neighbours."""
        return [first + second - node for first, second in self.joins if node in (first, second)]

    def block(self, node: int) -> Star:
        """Return a node with its neighbours as a block."""
        return Star(self.kinds[node], tuple(sorted(self.kinds[neighbour] for neighbour in self.around(node))))


class Gluing:
    """Yields graphs in which every node with its neighbours is one of the given blocks."""

    def __init__(self, blocks: Sequence[Star], degrees: Sequence[int], most_nodes: int, budget: int) -> None:
        """Group the blocks by centre.

        Args:
            blocks: available blocks, each usable any number of times.
            degrees: number of neighbours of each node of the alphabet.
            most_nodes: maximal number of nodes of a graph.
            budget: maximal number of visited graphs, partial or complete.
        """
        self.degrees, self.most_nodes, self.left = degrees, most_nodes, budget
        self.blocks = defaultdict[int, list[Counter[int]]](list)
        for block in blocks:
            self.blocks[block.centre].append(Counter(block.around))

    def find_closed_graphs(self) -> Iterator[Partial]:
        """Yield closed graphs, starting from the centre with the fewest blocks; graphs may be yielded repeatedly."""
        starts = sorted(self.blocks, key=lambda centre: len(self.blocks[centre]))
        whole = self.left
        for number, start in enumerate(starts):
            reserve = whole * (len(starts) - 1 - number) // len(starts)
            waiting = [Partial((start,), frozenset(), frozenset())]
            while waiting and self.left > reserve:
                self.left -= 1
                graph = waiting.pop()
                if graph.is_closed:
                    yield graph
                else:
                    waiting += self._further(graph)

    def _further(self, graph: Partial) -> Iterator[Partial]:
        """Yield the graphs after completing the neighbours of the open node with the fewest fitting blocks."""
        options: tuple[int, list[Counter[int]]] | None = None
        for node in set(range(len(graph.kinds))) - graph.complete_nodes:
            have = Counter(graph.kinds[neighbour] for neighbour in graph.around(node))
            missing = [block - have for block in self.blocks[graph.kinds[node]] if have <= block]
            if options is None or len(missing) < len(options[1]):
                options = node, missing
        assert options is not None, "a graph that is not closed has an open node"
        node, missing = options
        for kinds in missing:
            for partners in self._choices(graph, node, kinds):
                yield self._connect_node(graph, node, partners, kinds)

    def _choices(self, graph: Partial, node: int, missing: Counter[int]) -> Iterator[tuple[int, ...]]:
        """Yield the sets of existing nodes that become missing neighbours; the other neighbours will be new nodes."""
        excluded = {node, *graph.around(node)} | graph.complete_nodes
        free = [
            candidate
            for candidate in range(len(graph.kinds))
            if candidate not in excluded and graph.kinds[candidate] in missing
        ]
        free = [candidate for candidate in free if len(graph.around(candidate)) < self.degrees[graph.kinds[candidate]]]
        for count in range(min(len(free), missing.total()), -1, -1):
            if len(graph.kinds) + missing.total() - count > self.most_nodes:
                return
            for partners in combinations(free, count):
                if Counter(graph.kinds[candidate] for candidate in partners) <= missing:
                    yield partners

    def _connect_node(self, graph: Partial, node: int, partners: Sequence[int], missing: Counter[int]) -> Partial:
        new = missing - Counter(graph.kinds[partner] for partner in partners)
        first = len(graph.kinds)
        ends = (*partners, *range(first, first + new.total()))
        joins = graph.joins | {(min(node, end), max(node, end)) for end in ends}
        return Partial((*graph.kinds, *new.elements()), joins, graph.complete_nodes | {node})
