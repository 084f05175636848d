"""Boosted trees as sent by clients in xgboost's JSON, and the server's view."""

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
    """A tree: a row with x[column] < value goes left. All tensors have shape (nodes,).

    Attributes:
        left: left child of a split; -1 at a leaf.
        right: right child of a split; -1 at a leaf.
        column: column that a split compares.
        value: threshold of a split; for a leaf its contribution to the margin, including the learning rate.
        cover: sum of the loss's second derivatives over the rows of a node; None if it was removed.
    """

    left: Tensor
    right: Tensor
    column: Tensor
    value: Tensor
    cover: Tensor | None

    @property
    def leaves(self) -> Tensor:
        """Indices of the leaves, shape (L,)."""
        return (self.left < 0).nonzero().flatten()

    @property
    def splits(self) -> Tensor:
        """Indices of the splits."""
        return (self.left >= 0).nonzero().flatten()

    def find_leaf_indices(self, rows: Tensor) -> Tensor:
        """Return for each row (N, D) the index in `leaves` of its leaf, shape (N,)."""
        node = torch.zeros(len(rows), dtype=torch.long)
        while bool((inner := self.left[node] >= 0).any()):
            compared = rows.float().gather(1, self.column[node][:, None])[:, 0]
            child = torch.where(compared < self.value[node], self.left[node], self.right[node])
            node = torch.where(inner, child, node)
        return torch.searchsorted(self.leaves, node)

    def boxes(self, columns: int) -> tuple[Tensor, Tensor]:
        """Return lower (inclusive) and upper (exclusive) bounds of each leaf, each of shape (L, columns)."""
        low = torch.full((len(self.left), columns), -torch.inf)
        high = torch.full((len(self.left), columns), torch.inf)
        for node in map(int, self.splits):  # xgboost numbers children after their parent
            left, right, column = int(self.left[node]), int(self.right[node]), int(self.column[node])
            low[left], high[left] = low[node].clone(), high[node].clone()
            low[right], high[right] = low[node].clone(), high[node].clone()
            high[left, column] = low[right, column] = self.value[node]
        return low[self.leaves], high[self.leaves]


@dataclass(frozen=True)
class SentModel:
    """Content of one message.

    Attributes:
        base: initial probability or number of each row.
        trees: in the order in which they were added.
    """

    base: float
    trees: tuple[Tree, ...]


def read_model(text: str) -> SentModel:
    """Parse a model in xgboost's JSON."""
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
    """The server's view of a federation of trees.

    Attributes:
        client: the attacked client.
        columns: number of columns of a row.
        objective: training objective of the trees.
        eta: the learning rate.
        penalty: lambda, the weight of squared leaf values.
        rounds: each client's message in xgboost's JSON, by client number; a round's trees build on all earlier rounds.
        base: initial value of rows from the second round on: that of the first message.
        public: other rows of the same distribution, shape (P, columns).
        public_labels: labels of the `public` rows, shape (P,).
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
        """All messages of the attacked client."""
        return [read_model(sent[self.client]) for sent in self.rounds if self.client in sent]


@dataclass(frozen=True)
class RowBoxes:
    """Guessed bounds of rows: in each column from `low` (inclusive) to `high` (exclusive), each of shape (N, D).

    Attributes:
        labels: labels of the rows, shape (N,).
        low: lower bounds, inclusive.
        high: upper bounds, exclusive.
    """

    labels: Tensor
    low: Tensor
    high: Tensor

    def to_tensor(self) -> Tensor:
        """Return label, lower and upper bounds of each row as one tensor, shape (N, 1 + 2 D)."""
        return torch.cat([self.labels[:, None].double(), self.low.double(), self.high.double()], 1)

    @classmethod
    def from_tensor(cls, answer: Tensor) -> RowBoxes:
        """Return the boxes of a tensor of shape (N, 1 + 2 D)."""
        low, high = answer[:, 1:].float().chunk(2, 1)
        return cls(answer[:, 0].long(), low, high)

    def contains_rows(self, rows: Tensor) -> Tensor:
        """Return which boxes contain which rows (R, D), compared in float32 like xgboost, shape (N, R)."""
        points = rows.float()[None]
        return ((self.low[:, None] <= points) & (points < self.high[:, None])).all(2)
