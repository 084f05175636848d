"""Messages of split training at the cut, and the view of a single party."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

CutKnowledge = Literal["top", "bottom", "architecture", "few-labels", "public-data", "columns"]
"""Knowledge of a party besides the messages.

The top at each step; the attacked party's bottom at each step, or its architecture; a few labels; other examples of the
same distribution; the other parties' columns.
"""

Evidence = Literal["gradients", "bottom", "embeddings", "predictions"]
"""Input of an attack: returned gradients, the party's trained bottom, cut-layer activations, or predictions."""


@dataclass(frozen=True)
class CutStep:
    """Messages at the cut in a single step, and the models before and after the cut.

    Attributes:
        rows: indices of the examples, shape (B,).
        up: cut-layer activations sent by each party, by name, shape (B, width).
        down: returned gradients of the mean loss, by party, shape (B, width).
        bottoms: bottom models that computed `up`, by party; unknown ones are missing.
        top: top model that received `up`; None if unknown.
    """

    rows: Tensor
    up: Mapping[str, Tensor]
    down: Mapping[str, Tensor]
    bottoms: Mapping[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    top: nn.Module | None = None


@dataclass(frozen=True)
class CutView:
    """View of a party of split training. Fields without a grant are empty.

    Attributes:
        party: the feature party that infers labels, or whose columns are attacked by the label party.
        place: slice (start, stop) of the top's input: the party's entries, or those whose gradients it gets.
        classes: number of classes.
        shape: shape of the party's part of an example.
        rows: indices of the attacked examples, shape (N,).
        steps: the steps of one epoch.
        known_rows: indices of examples with known label, shape (M,).
        labels: labels of the `known_rows` examples, shape (M,).
        columns: in the feature party's view its part of all examples; in the label party's view, the other parties'
            columns for `rows`.
        public: the party's part of other examples of the same distribution, shape (P, *shape).
        public_labels: classes of the `public` examples, shape (P,).
        architecture: a bottom with the party's architecture and other weights.
        predictions: class probabilities for `rows`, shape (N, classes).
    """

    party: str
    place: tuple[int, int]
    classes: int
    shape: tuple[int, ...]
    rows: Tensor
    steps: Sequence[CutStep] = ()
    known_rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    columns: Tensor | None = None
    public: Tensor | None = None
    public_labels: Tensor | None = None
    architecture: nn.Module | None = None
    predictions: Tensor | None = None

    @property
    def width(self) -> int:
        """Width of the party's cut-layer activations."""
        return self.place[1] - self.place[0]

    @property
    def bottom(self) -> nn.Module:
        """The party's bottom in the last step."""
        return self.steps[-1].bottoms[self.party]

    def sent_activations(self, rows: Tensor) -> Tensor:
        """Return the party's cut-layer activations of examples in this epoch, shape (N, width)."""
        return self._entries_of(rows, [step.up[self.party] for step in self.steps])

    def received_gradients(self, rows: Tensor) -> Tensor:
        """Return the returned gradients of examples in this epoch, shape (N, width)."""
        return self._entries_of(rows, [step.down[self.party] for step in self.steps])

    def _entries_of(self, rows: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Return the entries of given examples; each example is in a single step of the epoch."""
        all_rows = torch.cat([step.rows for step in self.steps])
        order = all_rows.argsort()
        return torch.cat(list(parts))[order[torch.searchsorted(all_rows[order], rows)]]
