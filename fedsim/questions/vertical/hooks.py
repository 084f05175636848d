"""Base classes of attacks on split training, and of defenses that hide labels in returned gradients."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Modality
from fedsim.core.types.configured import ANYTHING, ConfigT, ConfiguredMethod
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence


class CutAttack(ConfiguredMethod[ConfigT]):
    """Attack by a party of split training. Subclasses implement `search`.

    Attributes:
        reads: the part of a party's view that it uses.
        needs: further knowledge that it requires.
        uses: further knowledge that it uses if granted.
        metric: metric of its finding.
    """

    metric: ClassVar[str]
    reads: ClassVar[Evidence]
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset()
    uses: ClassVar[frozenset[CutKnowledge]] = frozenset()
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @abstractmethod
    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return the answer for each requested row."""

    @final
    def __call__(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Call `search`, and check the answer.

        Raises:
            NotApplicable: the attack does not fit; with the reason.
            FedsimError: the answer has another shape, or is not finite.
        """
        answer = self.search(view, generator).detach().double()
        expected = self.expected_shape(view)
        if answer.shape != expected:
            raise FedsimError(f"the answer has shape {tuple(answer.shape)}, expected {expected}.")
        if not bool(answer.isfinite().all()):
            raise FedsimError("the answer holds values that are not finite.")
        return answer

    @abstractmethod
    def expected_shape(self, view: CutView) -> tuple[int, ...]:
        """Return the shape of an answer."""


class CutLabelAttack(CutAttack[ConfigT]):
    """Label inference by a feature party: class scores, shape (N, classes)."""

    metric: ClassVar[str] = "cut_label_accuracy"

    @final
    def expected_shape(self, view: CutView) -> tuple[int, ...]:
        """Return (rows, classes)."""
        return (len(view.rows), view.classes)


class CutFeatureAttack(CutAttack[ConfigT]):
    """Feature reconstruction by the label party: guesses of another party's columns, shape (N, *shape)."""

    metric: ClassVar[str] = "cut_r_squared"

    @final
    def expected_shape(self, view: CutView) -> tuple[int, ...]:
        """Return (rows, *shape of the party's part)."""
        return (len(view.rows), *view.shape)


class CutSteering(CutFeatureAttack[ConfigT]):
    """A malicious label party that sends crafted gradients. It keeps state between calls."""

    @abstractmethod
    def begin(self, view: CutView, generator: torch.Generator) -> None:
        """Prepare the attack. The view has no steps and no rows, since nothing was sent yet."""

    @abstractmethod
    def steer(self, sent: Tensor, generator: torch.Generator) -> Tensor:
        """Return the crafted gradients for a party's cut-layer activations, both of shape (B, width)."""


class CutDefense(ConfiguredMethod[ConfigT]):
    """Hides labels from the feature parties. Subclasses implement at least one function."""

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def relabel(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        """Return the training labels, computed once before training, both of shape (N,)."""
        return labels

    def perturb_gradients(self, gradients: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the gradients that are sent back to a party, shape (B, width)."""
        return gradients


def check_two_classes(view: CutView) -> None:
    """Raise unless the number of classes is two.

    Raises:
        NotApplicable: the number of classes is not two.
    """
    if view.classes != 2:  # noqa: PLR2004 - yes or no
        raise NotApplicable(f"it separates two classes, and the data have {view.classes}")
