"""Attributes of examples besides their label, as targets of attribute inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from fedsim.core.types import Attribute, Dataset


def split_at_median(figures: Sequence[Tensor]) -> Attribute:
    """Return the binary attribute whether a figure is above the median of the training examples."""
    train, test = ((figure > figures[0].median()).long() for figure in figures)
    return Attribute(("low", "high"), train, test)


def with_parity(data: Dataset) -> Dataset:
    """Return digits with the attribute `parity`; canaries have none."""
    count = len(data.attributes["brightness"].train)
    attribute = Attribute(("even", "odd"), data.train.labels[:count] % 2, data.test.labels % 2)
    return replace(data, attributes={**data.attributes, "parity": attribute})
