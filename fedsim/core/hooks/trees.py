"""What attacks on sent trees implement, and what protects trees before they are sent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Modality
from fedsim.core.types.configured import ANYTHING, ConfigT, Configured
from fedsim.core.types.trees import Objective, TreesView


class TreeAttack(Configured[ConfigT]):
    """Reads something of a client's rows from the trees that it sent. Authors write `search`.

    Attributes:
        metric: of its finding.
    """

    metric: ClassVar[str]
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @abstractmethod
    def search(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return the answer."""

    @abstractmethod
    def width(self, view: TreesView) -> int:
        """Return how many numbers a row of the answer has."""

    @final
    def __call__(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Search, and check the answer.

        Raises:
            NotApplicable: with the reason.
            FedsimError: the answer has another shape, or holds what is no number.
        """
        return self._checked(view, self.search(view, generator))

    def _checked(self, view: TreesView, answer: Tensor) -> Tensor:
        answer = answer.detach().double()
        if answer.dim() != 2 or answer.shape[1] != self.width(view):  # noqa: PLR2004 - (N, width)
            raise FedsimError(f"the answer has shape {tuple(answer.shape)}, expected (N, {self.width(view)}).")
        if bool(answer.isnan().any()):
            raise FedsimError("the answer holds what is no number.")
        return answer


class LeafAttack(TreeAttack[ConfigT]):
    """Reads the leaves of the client's first tree: how many rows each has, and the sum of their labels, (L, 2)."""

    metric: ClassVar[str] = "leaf_counts_exact"

    @final
    def width(self, view: TreesView) -> int:
        """Return 2."""
        return 2


class ThresholdAttack(TreeAttack[ConfigT]):
    """Lists values that occur in the client's rows: the column, counted from 0, and the value, (V, 2)."""

    metric: ClassVar[str] = "values_shown"

    @final
    def width(self, view: TreesView) -> int:
        """Return 2."""
        return 2


class _BlindAttack(TreeAttack[ConfigT]):
    """One whose chance is what it would answer without the sums of later trees."""

    @abstractmethod
    def search_blindly(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return an answer of the same form that fits the first tree and the paths of all others, and no sum."""

    @final
    def blind(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Search blindly, and check the answer; raises what `__call__` does."""
        return self._checked(view, self.search_blindly(view, generator))


class BoxAttack(_BlindAttack[ConfigT]):
    """Bounds the client's rows: `RowBoxes.packed`, shape (N, 1 + 2 columns)."""

    metric: ClassVar[str] = "covered"

    @final
    def width(self, view: TreesView) -> int:
        """Return 1 + 2 columns."""
        return 1 + 2 * view.columns


class RowAttack(_BlindAttack[ConfigT]):
    """Guesses the client's rows, shape (N, columns)."""

    metric: ClassVar[str] = "value_gain"

    @final
    def width(self, view: TreesView) -> int:
        """Return the columns."""
        return view.columns


class TreeDefense(Configured[ConfigT]):
    """Protects trees at the client. Authors write one of the functions, or several."""

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def parameters(self, objective: Objective) -> Mapping[str, Any]:
        """Return parameters of xgboost's training that it sets."""
        return {}

    def prepare(self, rows: Tensor, public: Tensor) -> Tensor:
        """Return the rows (N, D) that are trained on; `public` are others of the same kind, shape (P, D)."""
        return rows

    def cover(self, model: dict[str, Any]) -> dict[str, Any]:
        """Return the model, xgboost's JSON, that is sent."""
        return model


def check_log_loss(view: TreesView) -> None:
    """Refuse labels that are no two classes.

    Raises:
        NotApplicable: they are numbers.
    """
    if view.objective != "binary:logistic":
        raise NotApplicable("it sorts rows by label, and here labels are numbers")
