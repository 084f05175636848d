"""What attacks on split training implement, and what hides labels in the gradients that come back."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Modality
from fedsim.core.types.configured import ANYTHING, ConfigT, Configured
from fedsim.core.types.cut import CutKnowledge, CutView, Evidence


class CutAttack(Configured[ConfigT]):
    """Reads something from one seat of a split training. Authors write `search`.

    Attributes:
        reads: which part of what a seat sees.
        needs: what it must know beside that.
        uses: what it knows beside that where it is granted.
        metric: of its finding.
    """

    metric: ClassVar[str]
    reads: ClassVar[Evidence]
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset()
    uses: ClassVar[frozenset[CutKnowledge]] = frozenset()
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @abstractmethod
    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return the answer for every row that is asked about."""

    @final
    def __call__(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Search, and check the answer.

        Raises:
            NotApplicable: with the reason.
            FedsimError: the answer has another shape, or holds what is no number.
        """
        answer = self.search(view, generator).detach().double()
        expected = self.expected_shape(view)
        if answer.shape != expected:
            raise FedsimError(f"the answer has shape {tuple(answer.shape)}, expected {expected}.")
        if not bool(answer.isfinite().all()):
            raise FedsimError("the answer holds what is no finite number.")
        return answer

    @abstractmethod
    def expected_shape(self, view: CutView) -> tuple[int, ...]:
        """Return the shape of an answer."""


class CutLabelAttack(CutAttack[ConfigT]):
    """Reads labels from the seat of a party without labels: scores of the classes, shape (N, classes)."""

    metric: ClassVar[str] = "label_read"

    @final
    def expected_shape(self, view: CutView) -> tuple[int, ...]:
        """Return (rows, classes)."""
        return (len(view.rows), view.classes)


class CutFeatureAttack(CutAttack[ConfigT]):
    """Reads a party's columns from the seat of the party with labels: guesses, shape (N, *shape)."""

    metric: ClassVar[str] = "features_explained"

    @final
    def expected_shape(self, view: CutView) -> tuple[int, ...]:
        """Return (rows, *shape of the party's part)."""
        return (len(view.rows), *view.shape)


class CutSteering(CutFeatureAttack[ConfigT]):
    """A malicious party with labels, which sends other gradients than those of the loss. It keeps what it learns."""

    @abstractmethod
    def begin(self, view: CutView, generator: torch.Generator) -> None:
        """Get ready. The view has no steps and no rows: nothing was sent yet."""

    @abstractmethod
    def steer(self, sent: Tensor, generator: torch.Generator) -> Tensor:
        """Return what the party gets back for what it sent, both of shape (B, width)."""


class CutDefense(Configured[ConfigT]):
    """Hides labels from the parties that have none. Authors write one of the two functions, or both."""

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def relabel(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        """Return the labels that are trained on, once before the training, both of shape (N,)."""
        return labels

    def cover(self, gradients: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return what is sent back to one party, shape (B, width)."""
        return gradients


def check_two_classes(view: CutView) -> None:
    """Refuse more classes than two.

    Raises:
        NotApplicable: there are more.
    """
    if view.classes != 2:  # noqa: PLR2004 - yes or no
        raise NotApplicable(f"it tells two classes apart, and there are {view.classes}")
