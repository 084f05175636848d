"""Normalised gradient directions, and the assignment of two signs to classes."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.errors import NotApplicable
from fedsim.questions.vertical.types import CutView


def directions(gradients: Tensor) -> Tensor:
    """Return gradients divided by their norms, shape (N, width); zero gradients stay zero.

    Well-fitted examples have gradients far below the smallest norm that `F.cosine_similarity` distinguishes from zero.
    """
    lengths = gradients.norm(dim=1, keepdim=True)
    return torch.where(lengths > 0, gradients / lengths, 0.0)


def signed_scores(side: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """Return scores of two classes, shape (N, 2), from the sides of examples.

    Args:
        side: a number per example, whose sign gives its class up to a global flip, shape (N,).
        known: the sides of examples with known classes, shape (M,).
        labels: their classes, shape (M,).
    """
    agreement = (known.sign() * (2 * labels - 1)).sum()
    positive = side if agreement >= 0 else -side
    return torch.stack([-positive, positive], 1)


def check_known(view: CutView) -> None:
    """Raise if a class has no known example.

    Raises:
        NotApplicable: some class has no known example.
    """
    if len(view.labels.unique()) < view.classes:
        raise NotApplicable("it identifies classes by known examples, and some class has none")
