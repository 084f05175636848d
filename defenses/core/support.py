"""Select the entries that are sent: the largest scores, per tensor or over all tensors."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from defenses.core.tensors import TensorConfig
from fedsim.core.types import Tensors

Per = Literal["tensor", "model"]
_ROUNDING = 1e-9


class SupportConfig(TensorConfig):
    """Settings of defenses that send some of the entries."""

    rate: float = Field(default=0.9, ge=0, lt=1, description="share of the entries that are not sent")
    per: Per = Field(default="tensor", description="tensor: each tensor keeps this share; model: all tensors together")


def largest(scores: Tensors, rate: float, per: Per) -> dict[str, Tensor]:
    """Return masks, by name, of the entries with the largest scores: exactly n - floor(rate n) of n entries.

    Ties are resolved in favour of earlier entries.
    """
    if per == "tensor":
        return {name: _largest(score.flatten(), rate).view(score.shape) for name, score in scores.items()}
    whole = _largest(torch.cat([score.flatten() for score in scores.values()]), rate)
    parts = whole.split([score.numel() for score in scores.values()])
    return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def zero_outside(tensors: Tensors, support: Tensors) -> dict[str, Tensor]:
    """Return the tensors with zeros outside the support."""
    return {name: torch.where(support[name], t, torch.zeros_like(t)) for name, t in tensors.items()}


def count_dropped(size: int, rate: float) -> int:
    """Return floor(rate size); a product within rounding error of an integer counts as that integer."""
    return math.floor(rate * size + _ROUNDING)


def _largest(scores: Tensor, rate: float) -> Tensor:
    """Return the mask of the largest scores by the k-th value; a sort would be much slower than a client's step."""
    count = count_dropped(len(scores), rate)
    least = scores.kthvalue(count + 1).values
    kept = scores > least
    ties = (scores == least).nonzero().flatten()
    kept[ties[: len(scores) - count - int(kept.sum())]] = True
    return kept
