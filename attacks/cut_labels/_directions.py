"""Directions of gradients, and which of two signs means which class."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.errors import NotApplicable
from fedsim.core.types.cut import CutView


def directions(gradients: Tensor) -> Tensor:
    """Return gradients divided by their lengths, shape (N, width); those of length zero stay zero.

    Well-fitted examples have gradients far below the smallest number that `F.cosine_similarity` tells from zero.
    """
    lengths = gradients.norm(dim=1, keepdim=True)
    return torch.where(lengths > 0, gradients / lengths, 0.0)


def signed_scores(side: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """Return scores of two classes, shape (N, 2), from which side examples are on.

    Args:
        side: a number an example, whose sign tells its class up to one flip, shape (N,).
        known: the same of examples whose class is known, shape (M,).
        labels: their classes, shape (M,).
    """
    agreement = (known.sign() * (2 * labels - 1)).sum()
    positive = side if agreement >= 0 else -side
    return torch.stack([-positive, positive], 1)


def check_known(view: CutView) -> None:
    """Refuse to name classes of which no example is known.

    Raises:
        NotApplicable: some class has none.
    """
    if len(view.labels.unique()) < view.classes:
        raise NotApplicable("it names classes by examples, and some class has no known one")
