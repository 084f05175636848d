"""Base classes of attacks on sent decision trees, and of defenses of trees."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Modality
from fedsim.core.types.configured import ANYTHING, ConfigT, ConfiguredMethod
from fedsim.questions.trees.types import Objective, TreesView


class TreeAttack(ConfiguredMethod[ConfigT]):
    """Infers facts about a client's rows from the trees that it sent. Subclasses implement `search`.

    Attributes:
        metric: metric of its finding.
    """

    metric: ClassVar[str]
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @abstractmethod
    def search(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return the answer."""

    @abstractmethod
    def width(self, view: TreesView) -> int:
        """Return the number of values per row of the answer."""

    @final
    def __call__(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Call `search`, and check the answer.

        Raises:
            NotApplicable: the attack does not fit; with the reason.
            FedsimError: the answer has another shape, or contains NaN.
        """
        return self._check_answer(view, self.search(view, generator))

    def _check_answer(self, view: TreesView, answer: Tensor) -> Tensor:
        answer = answer.detach().double()
        if answer.dim() != 2 or answer.shape[1] != self.width(view):  # noqa: PLR2004 - (N, width)
            raise FedsimError(f"the answer has shape {tuple(answer.shape)}, expected (N, {self.width(view)}).")
        if bool(answer.isnan().any()):
            raise FedsimError("the answer holds values that are no numbers.")
        return answer


class LeafAttack(TreeAttack[ConfigT]):
    """Infers the leaves of the client's first tree: number of rows and sum of labels of each leaf, (L, 2)."""

    metric: ClassVar[str] = "leaf_counts_exact"

    @final
    def width(self, view: TreesView) -> int:
        """Return 2."""
        return 2


class ThresholdAttack(TreeAttack[ConfigT]):
    """Lists values that occur in the client's rows: column index from 0, and value, (V, 2)."""

    metric: ClassVar[str] = "threshold_precision"

    @final
    def width(self, view: TreesView) -> int:
        """Return 2."""
        return 2


class _BlindAttack(TreeAttack[ConfigT]):
    """Base class of attacks whose chance level is their answer without the sums of later trees."""

    @abstractmethod
    def search_blindly(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return an answer of the same form from the first tree and the paths of all others, without their sums."""

    @final
    def blind(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Call `search_blindly`, and check the answer; raises as `__call__`."""
        return self._check_answer(view, self.search_blindly(view, generator))


class BoxAttack(_BlindAttack[ConfigT]):
    """Infers bounds of the client's rows: `RowBoxes.to_tensor`, shape (N, 1 + 2 columns)."""

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


class TreeDefense(ConfiguredMethod[ConfigT]):
    """Protects trees at the client. Subclasses implement at least one function."""

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def parameters(self, objective: Objective) -> Mapping[str, Any]:
        """Return xgboost training parameters that the defense sets."""
        return {}

    def prepare(self, rows: Tensor, public: Tensor) -> Tensor:
        """Return the training rows (N, D); `public` are other rows of the same distribution, shape (P, D)."""
        return rows

    def protect_model(self, model: dict[str, Any]) -> dict[str, Any]:
        """Return the model to send, in xgboost's JSON form."""
        return model


def check_log_loss(view: TreesView) -> None:
    """Raise unless the objective is binary classification.

    Raises:
        NotApplicable: the labels are numbers.
    """
    if view.objective != "binary:logistic":
        raise NotApplicable("it sorts rows by label, and here labels are numbers")
