"""Assign groups of rows with equal box, label and margin to the leaves of one tree after the other.

Rows of a group are interchangeable, so a tree needs groups x leaves integer unknowns instead of rows x leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, hstack, identity

from attacks.trees._algebra import leaf_counts, logit, sums
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Config
from fedsim.questions.trees.hooks import check_log_loss
from fedsim.questions.trees.types import RowBoxes, Tree, TreesView, read_model

_MOST_OPTIONS = 20_000  # a search over more needs minutes per tree
_TIE = 1e-5  # random cost of each row, far below the cost of a row in a wrong leaf
_FITS = 1e-3  # float32 sums of some hundred rows stay below, a row in the wrong leaf is far above


@dataclass(frozen=True)
class Groups:
    """Groups of rows, or candidate boxes (places) of the rows of groups.

    Attributes:
        low: inclusive lower bounds, shape (G, D).
        high: exclusive upper bounds, shape (G, D).
        label: 0 or 1, shape (G,).
        margin: sum of the trees so far, shape (G,).
        count: rows of each group, shape (G,); for a place, the rows of its group.
        group: index of the group, shape (G,); 0, 1, ... except for places.
    """

    low: np.ndarray
    high: np.ndarray
    label: np.ndarray
    margin: np.ndarray
    count: np.ndarray
    group: np.ndarray

    def select(self, places: np.ndarray) -> Groups:
        """Return the entries at these indices, in their order."""
        return Groups(*(getattr(self, name)[places] for name in self.__dataclass_fields__))

    def cut(self, tree: Tree) -> tuple[Groups, np.ndarray]:
        """Return the intersections of every box with the leaves of a tree, and the leaf of each intersection."""
        leaf_low, leaf_high = (bound.numpy() for bound in tree.boxes(self.low.shape[1]))
        low = np.maximum(self.low[:, None], leaf_low)
        high = np.minimum(self.high[:, None], leaf_high)
        place, leaf = np.nonzero((low < high).all(2))
        parts = self.select(place)
        value = tree.value[tree.leaves].double().numpy()[leaf]
        cut = Groups(low[place, leaf], high[place, leaf], parts.label, parts.margin + value, parts.count, parts.group)
        return cut, leaf

    def merge_duplicates(self) -> Groups:
        """Merge groups with equal box, label and margin."""
        counted: Counter[int] = Counter()
        first: dict[bytes, int] = {}
        for number, count in enumerate(self.count.tolist()):
            key = b"".join(
                array[number].tobytes() for array in (self.low, self.high, self.label, self.margin.astype(np.float32))
            )
            counted[first.setdefault(key, number)] += count
        places = np.array([number for number, count in counted.items() if count], dtype=int)
        count = np.array([counted[number] for number in places.tolist()])
        kept = self.select(places)
        return replace(kept, count=count, group=np.arange(len(places)))

    def boxes(self) -> RowBoxes:
        """Return a box for every row."""
        groups = torch.from_numpy(np.repeat(np.arange(len(self.count)), self.count))
        return RowBoxes(
            torch.from_numpy(self.label)[groups], *(torch.from_numpy(b)[groups] for b in (self.low, self.high))
        )


@dataclass(frozen=True)
class Sharing:
    """Problem of assigning rows to places so that the sums of derivatives over a tree's leaves match.

    Attributes:
        places: candidate boxes.
        leaf: leaf of each place, shape (P,).
        first: first derivative of a row at each place, shape (P,).
        second: second derivative, shape (P,).
        sums: sums of first derivatives over each leaf, then of second derivatives, shape (2 L,).
    """

    places: Groups
    leaf: np.ndarray
    first: np.ndarray
    second: np.ndarray
    sums: np.ndarray

    @property
    def total(self) -> coo_array:
        """Matrix from counts of places to sums over leaves, shape (2 L, P)."""
        places = np.tile(np.arange(len(self.leaf)), 2)
        leaves = (np.concatenate([self.leaf, self.leaf + len(self.sums) // 2]), places)
        return coo_array((np.concatenate([self.first, self.second]), leaves), shape=(len(self.sums), len(self.leaf)))

    def misfit(self, count: np.ndarray) -> float:
        """Return the L1 distance of the sums of counts (P,) from the observed sums."""
        return float(np.abs(self.total @ count - self.sums).sum())


Share = Callable[[Sharing], np.ndarray]
"""Returns the number of rows at each place, shape (P,)."""


def follow(view: TreesView, share: Share) -> tuple[RowBoxes, float]:
    """Return a box for every row of the client, from the assignments to its trees' leaves, and the misfit.

    Raises:
        NotApplicable: labels are numbers, covers were stripped, the first tree builds on others, or there are too many
            places.
    """
    check_log_loss(view)
    groups, misfit = _begin(view), 0.0
    for tree, trees_between in _steps(view):
        places = groups
        for group in trees_between:
            places, _ = places.cut(group)
            _check_size(places)
        sharing = _ask(places, tree, view)
        count = share(sharing)
        misfit += sharing.misfit(count)
        groups = replace(sharing.places, count=count).merge_duplicates()
    return groups.boxes(), misfit


def _ask(places: Groups, tree: Tree, view: TreesView) -> Sharing:
    cut, leaf = places.cut(tree)
    _check_size(cut)
    probability = 1 / (1 + np.exp(tree.value[tree.leaves].double().numpy()[leaf] - cut.margin))
    aims = np.concatenate([part.numpy() for part in sums(tree, view)])
    return Sharing(cut, leaf, probability - cut.label, probability * (1 - probability), aims)


def _check_size(places: Groups) -> None:
    if len(places.count) > _MOST_OPTIONS:
        raise NotApplicable(
            f"trees of others between two of the client's leave more than {_MOST_OPTIONS} places for its rows"
        )


def _begin(view: TreesView) -> Groups:
    """Return the groups after the first tree: each leaf's rows of either label."""
    model = view.first
    tree = model.trees[0]
    rows, positives = (part.numpy().astype(int) for part in leaf_counts(model, view))
    low, high = (np.tile(bound.numpy(), (2, 1)) for bound in tree.boxes(view.columns))
    margin = np.tile(logit(model.base) + tree.value[tree.leaves].double().numpy(), 2)
    label = np.repeat([0, 1], len(rows))
    count = np.concatenate([rows - positives, positives])
    return Groups(low, high, label, margin, count, np.arange(len(count))).merge_duplicates()


def _steps(view: TreesView) -> Iterator[tuple[Tree, Sequence[Tree]]]:
    """Yield each later tree of the client, with the trees of others that it builds on since the client's previous tree.

    The first message starts from the client's base score, later messages from the base score of the very first message:
    the
    shift is yielded as a tree with a single leaf.
    """
    first, *later_trees = view.first.trees
    yield from ((tree, ()) for tree in later_trees)
    trees_since: list[Tree] = [_shift(logit(view.base) - logit(view.first.base), first)]
    for before, sent in zip(view.rounds, view.rounds[1:], strict=False):
        trees_since += [tree for client in before if client != view.client for tree in _trees(before[client])]
        if view.client not in sent:
            continue
        for tree in _trees(sent[view.client]):
            yield tree, trees_since
            trees_since = []


def _trees(text: str) -> Sequence[Tree]:
    return read_model(text).trees


def _shift(value: float, like: Tree) -> Tree:
    leaf = like.left.new_full((1,), -1)
    return Tree(leaf, leaf, leaf, like.value.new_full((1,), value), None)


def draw(generator: torch.Generator) -> Share:
    """Return a function that assigns each row of a group to one of its places at random."""
    numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

    def share(sharing: Sharing) -> np.ndarray:
        places = sharing.places
        count = np.zeros(len(places.group), dtype=int)
        for group in np.unique(places.group):
            options = np.nonzero(places.group == group)[0]
            count[options] = numbers.multinomial(places.count[options[0]], [1 / len(options)] * len(options))
        return count

    return share


def solve(nodes: int, generator: torch.Generator) -> Share:
    """Return a function that assigns rows so that sums fit best; ties are broken at random.

    Args:
        nodes: node limit of the branch-and-bound search for each tree; a time limit would not be reproducible.
        generator: for the random choice.
    """
    numbers, blindly = np.random.default_rng(int(torch.randint(2**62, (), generator=generator))), draw(generator)

    def share(sharing: Sharing) -> np.ndarray:
        places, aims, total = sharing.places, sharing.sums, sharing.total
        options = len(places.group)
        slack = identity(len(aims))
        groups, number = np.unique(places.group, return_inverse=True)
        member = coo_array((np.ones(options), (number, np.arange(options))), shape=(len(groups), options))
        counts = np.zeros(len(groups))
        counts[number] = places.count
        free = coo_array((len(groups), len(aims)))
        result = milp(
            np.concatenate([numbers.uniform(0, _TIE, options), np.ones(len(aims))]),
            integrality=np.concatenate([np.ones(options), np.zeros(len(aims))]),
            bounds=Bounds(0, np.concatenate([places.count, np.full(len(aims), np.inf)])),
            constraints=[
                LinearConstraint(hstack([total, slack]).tocsc(), aims, np.inf),
                LinearConstraint(hstack([total, -slack]).tocsc(), -np.inf, aims),
                LinearConstraint(hstack([member, free]).tocsc(), counts, counts),
            ],
            options={"node_limit": nodes},
        )
        return blindly(sharing) if result.x is None else result.x[:options].round().astype(int)

    return share


def search(view: TreesView, tries: int, nodes: int, generator: torch.Generator) -> RowBoxes:
    """Return the boxes of the best fit of several tries.

    An assignment that fits one tree may be wrong; then no assignment fits the later trees.

    Raises:
        NotApplicable: as `follow`.
    """
    answers = []
    for _ in range(tries):
        answers.append(follow(view, solve(nodes, generator)))
        if answers[-1][1] < _FITS:
            break
    return min(answers, key=lambda answer: answer[1])[0]


class BoxSearchConfig(Config):
    """Settings of a search for boxes."""

    tries: int = Field(default=8, ge=1, description="searches from the start; the best fit counts")
    nodes: int = Field(default=200, ge=1, description="of the branch-and-bound search for each tree")
