"""Column types of tables from public statistics, and decoding of guessed categories.

A category has a column per value, of which exactly one is 1; 0 and 1 are the extremes of a column.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from fedsim.core.types import InputSpec

_SAME_SHARE = 1e-5  # single precision of means over a whole table
_SAME_SPREAD = 1e-4


def categories_of(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """Return the columns of each category of a table, from the public mean and standard deviation of each column.

    A 0/1 column has variance m (1 - m). Adjacent columns of this kind with means that sum to 1 form a category.
    """
    is_flag = [abs(s * s - m * (1.0 - m)) <= _SAME_SPREAD * s * s for m, s in zip(mean, std, strict=True)]
    categories, start = list[tuple[int, ...]](), 0
    while start < len(is_flag):
        end = _end_of_category(mean, is_flag, start)
        if is_flag[start]:
            categories.append(tuple(range(start, end)))
        start = end
    return tuple(categories)


def likeliest_values(rows: Tensor, spec: InputSpec) -> Tensor:
    """Return normalised rows (..., C) with each category set to its most likely value; numeric columns stay."""
    decided = rows.clone()
    for category in map(list, categories_of(spec.mean, spec.std)):
        mean, std = (rows.new_tensor([statistic[column] for column in category]) for statistic in (spec.mean, spec.std))
        shares = rows[..., category] * std + mean
        values = shares.round().clamp(0, 1) if len(category) == 1 else F.one_hot(shares.argmax(-1), len(category))
        decided[..., category] = (values - mean) / std
    return decided


def _end_of_category(mean: Sequence[float], is_flag: Sequence[bool], start: int) -> int:
    total = 0.0
    for end in range(start, len(is_flag)):
        if not is_flag[end]:
            break
        total += mean[end]
        if abs(total - 1.0) < _SAME_SHARE:
            return end + 1
    return start + 1
