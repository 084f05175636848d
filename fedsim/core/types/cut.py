"""What crosses the cut of a model that several parties hold in parts, and what one of them sees of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

CutKnowledge = Literal["top", "bottom", "architecture", "few-labels", "public-data", "columns"]
"""What a seat may know beside the messages: the top at each step; the attacked party's bottom at each step, or how it
is built; a few labels; other examples of the same kind; the other parties' columns."""

Evidence = Literal["gradients", "bottom", "embeddings", "predictions"]
"""What an attack reads: gradients that came back, the party's trained bottom, what was sent, or predictions."""


@dataclass(frozen=True)
class CutStep:
    """What crosses the cut in one step, and the parts of the model before it.

    Attributes:
        rows: numbers of the examples, shape (B,).
        up: what each party sent, by its name, shape (B, width).
        down: what each got back: the gradient of the mean loss, shape (B, width).
        bottoms: parts that made `up`, by party; those that are not known are missing.
        top: the part that read `up`; None where it is not known.
    """

    rows: Tensor
    up: Mapping[str, Tensor]
    down: Mapping[str, Tensor]
    bottoms: Mapping[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    top: nn.Module | None = None


@dataclass(frozen=True)
class CutView:
    """What one seat sees of a split training. What was not granted is empty.

    Attributes:
        party: whose labels or columns are asked for: at its seat labels are read, from the other seat its columns.
        place: where its numbers, at its seat those whose gradients it gets, stand among those that the top reads: the
            first, and the one behind the last.
        classes: how many there are.
        shape: of the party's part of one example.
        rows: numbers of the examples that are asked about, shape (N,).
        steps: the steps of one epoch.
        known: numbers of examples whose label is known, shape (M,), and `labels` theirs, shape (M,).
        labels: see `known`.
        columns: at the party's seat its part of every example; at the other, those of the other parties for `rows`.
        public: the party's part of other examples of the same kind, shape (P, *shape), and `public_labels` their
            classes, shape (P,).
        public_labels: see `public`.
        architecture: a bottom that is built like the party's, with other weights.
        predictions: probabilities of the classes for `rows`, shape (N, classes).
    """

    party: str
    place: tuple[int, int]
    classes: int
    shape: tuple[int, ...]
    rows: Tensor
    steps: Sequence[CutStep] = ()
    known: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    columns: Tensor | None = None
    public: Tensor | None = None
    public_labels: Tensor | None = None
    architecture: nn.Module | None = None
    predictions: Tensor | None = None

    @property
    def width(self) -> int:
        """How many numbers the party sends of an example."""
        return self.place[1] - self.place[0]

    @property
    def bottom(self) -> nn.Module:
        """The party's part as it was in the last step."""
        return self.steps[-1].bottoms[self.party]

    def sent(self, rows: Tensor) -> Tensor:
        """Return what the party sent of examples in this epoch, shape (N, width)."""
        return self._of(rows, [step.up[self.party] for step in self.steps])

    def received(self, rows: Tensor) -> Tensor:
        """Return the gradients that came back for examples in this epoch, shape (N, width)."""
        return self._of(rows, [step.down[self.party] for step in self.steps])

    def _of(self, rows: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Return the parts that belong to examples; in an epoch each example is in one step."""
        every = torch.cat([step.rows for step in self.steps])
        order = every.argsort()
        return torch.cat(list(parts))[order[torch.searchsorted(every[order], rows)]]
