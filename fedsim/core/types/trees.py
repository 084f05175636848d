"""Boosted trees as clients send them: xgboost's JSON, and what one who reads it sees."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Objective = Literal["binary:logistic", "reg:squarederror"]


@dataclass(frozen=True)
class Tree:
    """One tree: a row with x[column] < value goes left. All of shape (nodes,).

    Attributes:
        left: child of a split; -1 at a leaf.
        right: the same.
        column: that a split compares.
        value: of a split its threshold, of a leaf what it adds to the margin, the learning rate included.
        cover: sum of the loss's second derivatives over the rows of a node; None where it was stripped.
    """

    left: Tensor
    right: Tensor
    column: Tensor
    value: Tensor
    cover: Tensor | None

    @property
    def leaves(self) -> Tensor:
        """Numbers of the nodes that are leaves, shape (L,)."""
        return (self.left < 0).nonzero().flatten()

    @property
    def splits(self) -> Tensor:
        """Numbers of the nodes that are no leaves."""
        return (self.left >= 0).nonzero().flatten()

    def reached(self, rows: Tensor) -> Tensor:
        """Return for each row (N, D) the place among `leaves` of the one that it comes to, shape (N,)."""
        node = torch.zeros(len(rows), dtype=torch.long)
        while bool((inner := self.left[node] >= 0).any()):
            compared = rows.float().gather(1, self.column[node][:, None])[:, 0]
            child = torch.where(compared < self.value[node], self.left[node], self.right[node])
            node = torch.where(inner, child, node)
        return torch.searchsorted(self.leaves, node)

    def boxes(self, columns: int) -> tuple[Tensor, Tensor]:
        """Return the least values that reach each leaf, and those behind the last, each of shape (L, columns)."""
        low = torch.full((len(self.left), columns), -torch.inf)
        high = torch.full((len(self.left), columns), torch.inf)
        for node in map(int, self.splits):  # xgboost numbers children behind their parent
            left, right, column = int(self.left[node]), int(self.right[node]), int(self.column[node])
            low[left], high[left] = low[node].clone(), high[node].clone()
            low[right], high[right] = low[node].clone(), high[node].clone()
            high[left, column] = low[right, column] = self.value[node]
        return low[self.leaves], high[self.leaves]


@dataclass(frozen=True)
class SentModel:
    """What one message holds.

    Attributes:
        base: the probability or number with which every row starts.
        trees: in the order in which they were added.
    """

    base: float
    trees: tuple[Tree, ...]


def read_model(text: str) -> SentModel:
    """Return what a model in xgboost's JSON holds."""
    learner = json.loads(text)["learner"]
    base = float(learner["learner_model_param"]["base_score"].strip("[]"))
    return SentModel(base, tuple(map(_tree, learner["gradient_booster"]["model"]["trees"])))


def _tree(raw: Mapping[str, Any]) -> Tree:
    left, right, column = (
        torch.tensor(raw[key], dtype=torch.long) for key in ("left_children", "right_children", "split_indices")
    )
    value = torch.tensor(raw["split_conditions"], dtype=torch.float32)
    cover = torch.tensor(raw.get("sum_hessian", []), dtype=torch.float64)
    return Tree(left, right, column, value, cover if bool(cover.any()) else None)


@dataclass(frozen=True)
class TreesView:
    """What the server sees of a federation of trees.

    Attributes:
        client: whose rows are asked for.
        columns: of a row.
        objective: what trees are fitted to.
        eta: the learning rate.
        penalty: lambda, the weight of squared leaf values.
        rounds: what each client sent, in xgboost's JSON, by its number; a round's trees build on all rounds before.
        base: with which rows start from the second round on: that of the first message.
        public: other rows of the same kind, shape (P, columns), and `public_labels` theirs, shape (P,).
        public_labels: see `public`.
    """

    client: int
    columns: int
    objective: Objective
    eta: float
    penalty: float
    rounds: Sequence[Mapping[int, str]]
    base: float
    public: Tensor = field(repr=False)
    public_labels: Tensor = field(repr=False)

    @property
    def first(self) -> SentModel:
        """The first message of the attacked client."""
        return read_model(next(sent[self.client] for sent in self.rounds if self.client in sent))

    @property
    def models(self) -> list[SentModel]:
        """Every message of the attacked client."""
        return [read_model(sent[self.client]) for sent in self.rounds if self.client in sent]


@dataclass(frozen=True)
class RowBoxes:
    """Guesses of where rows lie: in each column from `low` on and below `high`, each of shape (N, D).

    Attributes:
        labels: of the rows, shape (N,).
        low: least values.
        high: those behind the last.
    """

    labels: Tensor
    low: Tensor
    high: Tensor

    def packed(self) -> Tensor:
        """Return label, least values and those behind the last of each row as one tensor, shape (N, 1 + 2 D)."""
        return torch.cat([self.labels[:, None].double(), self.low.double(), self.high.double()], 1)

    @classmethod
    def unpacked(cls, answer: Tensor) -> RowBoxes:
        """Return the boxes that a tensor of shape (N, 1 + 2 D) holds."""
        low, high = answer[:, 1:].float().chunk(2, 1)
        return cls(answer[:, 0].long(), low, high)

    def holding(self, rows: Tensor) -> Tensor:
        """Return which boxes hold which rows (R, D), as xgboost compares, shape (N, R)."""
        at = rows.float()[None]
        return ((self.low[:, None] <= at) & (at < self.high[:, None])).all(2)
